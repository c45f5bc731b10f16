"""Tokens as texts to look at, and tokens that a caller names.

A token may be a part of a character: then its text alone is "\\ufffd", and what can be read is its
bytes, as the vocabulary has them.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError

Token = str | int
_BYTES = re.compile("(<0x[0-9A-Fa-f]{2}>)+")  # as SentencePiece writes those of no known character
_PART = "\ufffd"


def readable_tokens(model: Traceable, ids: Iterable[int]) -> dict[int, str]:
    """Each distinct token as a text to look at: as its number where there is no tokenizer."""
    if model.tokenizer is None:
        return {token: str(token) for token in ids}
    return {
        token: readable(model.token_to_str(token), _entry(model.tokenizer, token))
        for token in dict.fromkeys(ids)
    }


def readable(text: str, entry: str) -> str:
    """A token's text; its bytes, `<0xE4>`, where they are no whole character.

    Args: entry: the token as the vocabulary has it, in letters that stand for bytes maybe.
    """
    if _PART not in text and text != entry:
        return text
    if _BYTES.fullmatch(entry):
        return entry
    alphabet = _letters_of_bytes()
    if _PART in text or "Ġ" in text or "Ċ" in text:
        if entry and all(letter in alphabet for letter in entry):
            return _spelt(bytes(alphabet[letter] for letter in entry))
    return text.replace("▁", " ")


def _spelt(data: bytes) -> str:
    """Bytes as the characters that they are, and the others as `<0xE4>`."""
    text = data.decode("utf-8", "surrogateescape")
    return "".join(
        f"<0x{ord(sign) - 0xDC00:02X}>" if 0xDC80 <= ord(sign) <= 0xDCFF else sign for sign in text
    )


@cache
def _letters_of_bytes() -> dict[str, int]:
    """GPT-2's letters of bytes: those that can be seen stand for themselves, others come after."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + k): b for k, b in enumerate(hidden)}


def _entry(tokenizer: Any, token: int) -> str:
    for name in ("convert_ids_to_tokens", "id_to_token"):
        if hasattr(tokenizer, name):
            return str(getattr(tokenizer, name)(token) or "")
    return ""


def asked_tokens(model: Traceable, tokens: Sequence[Token], written: str) -> dict[Token, int]:
    """The ids of tokens that a caller names, by the name: texts of one token, or ids.

    Args: written: how the caller gave them.
    Raises: InputError; TokenError for a text of several tokens; NoTokenizerError.
    """
    found: dict[Token, int] = {}
    for token in tokens:
        name = token if isinstance(token, str) else _id(token, written)
        if name in found:
            raise InputError(f"{written} has {name!r} twice.\n  Give each token once.")
        found[name] = model.single_token(name) if isinstance(name, str) else name
    if not found:
        raise InputError(f"{written} has no tokens.\n  Write {written}=[' Paris', ' Rome'].")
    return found


def _id(token: Any, written: str) -> int:
    try:
        number = operator.index(token)
    except TypeError:
        number = -1
    if number < 0 or isinstance(token, bool):
        raise InputError(
            f"{token!r:.60} is no token.\n  Write the text of one, such as {written}=' Paris', or"
            " its id."
        )
    return number
