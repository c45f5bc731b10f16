"""Text as it comes, up to a text that it stops at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Until:
    """Pieces of text up to one to stop at, which is left out.

    What may be the beginning of one is held back until that is known.
    Attributes: stopped: whether it has come.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = stops
        self._text, self._given = "", 0
        self.stopped = False

    def add(self, piece: str, is_last: bool) -> str:
        """What can be given out now."""
        self._text += piece
        ends = [self._text.find(stop, self._given) for stop in self._stops]
        found = [at for at in ends if at >= 0]
        self.stopped = bool(found)
        safe = min(found, default=len(self._text))
        if not found and not is_last:
            rest = self._text[self._given :]
            safe -= max((_begun(rest, stop) for stop in self._stops), default=0)
        given, self._given = self._given, safe
        return self._text[given:safe]


def _begun(text: str, stop: str) -> int:
    """How much of a text's end may be the beginning of what is stopped at."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if stop.startswith(text[-n:])), 0)


class Pieces:
    """The text of tokens as they come.  Args: tokenizer: mlx-lm's, or None: then there is none."""

    def __init__(self, tokenizer: Any, stops: Sequence[str]):
        self._until = Until(stops)
        self._detokenizer = None if tokenizer is None else tokenizer.detokenizer

    @property
    def stopped(self) -> bool:
        """Whether a text to stop at has come."""
        return self._until.stopped

    def add(self, token: int, ended: str | None) -> str:
        """The piece of text that a token finishes; the end of the text itself is none.

        Args: ended: mlx-lm's reason to end here, or None.
        """
        if self._detokenizer is None:
            return ""
        if ended != "stop":
            self._detokenizer.add_token(token)
        if ended is not None:
            self._detokenizer.finalize()
        return self._until.add(self._detokenizer.last_segment, ended is not None)
