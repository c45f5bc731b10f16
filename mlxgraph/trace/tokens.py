"""Tokens and the text that they stand for: what each is, and which holds a part of a text.

In: a tokenizer, and a prompt of one row.  Out: strings, an id, a position.
A fast tokenizer says which characters each token is of (and of a text alone); of any other, longer
and longer beginnings of the tokens are decoded.
"""

from __future__ import annotations

import operator
from os.path import commonprefix
from typing import Any, NamedTuple

from mlxgraph.errors import InputError, NoTokenizerError, TokenError
from mlxgraph.trace.chat import templated
from mlxgraph.trace.encoding import (
    begins_with_bos,
    check_text,
    encode,
    is_messages,
    prompt_rows,
)
from mlxgraph.trace.inputs import listed_ids

SPACE = "▁"  # SentencePiece's, which the text of a token alone leaves out


class Spans(NamedTuple):
    """A prompt as the model gets it.

    Attributes:
        ids: its tokens.
        text: the text that they are of, in which `ends` count.
        starts, ends: the characters of each token; a token that stands for none, as an added
            special token, ends where it starts.
    """

    ids: list[int]
    text: str
    starts: list[int]
    ends: list[int]


def token_text(tokenizer: Any, token: int) -> str:
    """The text of one token, with the space that it begins with."""
    text = _decode(tokenizer, [token])
    entry = _entry(tokenizer, token)
    if not entry.startswith(SPACE):
        return text or entry  # `tokenizers`' own class leaves special tokens out
    spaces = len(entry) - len(entry.lstrip(SPACE))
    return " " * spaces + text.lstrip(" ")


def _decode(tokenizer: Any, ids: list[int]) -> str:
    """The text of tokens, with every space: some tokenizers take them away before a comma."""
    try:
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    except TypeError:  # it takes none away
        return str(tokenizer.decode(ids))


def _entry(tokenizer: Any, token: int) -> str:
    """A token as the vocabulary has it, or ""."""
    for name in ("convert_ids_to_tokens", "id_to_token"):
        if hasattr(tokenizer, name):
            return str(getattr(tokenizer, name)(token) or "")
    return ""


def one_row(tokenizer: Any, prompt: Any) -> list[int]:
    """The ids of a prompt.  Raises: InputError for what is none, or several."""
    rows = prompt_rows(prompt, tokenizer)
    if len(rows) != 1:
        raise InputError(
            f"one text is needed here, and these are {len(rows)}: {prompt!r:.60}.\n"
            "  Give a text, messages or token ids, one at a time."
        )
    return listed_ids(rows[0])


def single_token(tokenizer: Any, text: Any) -> int:
    """The id of a text that is one token.  Raises: TokenError, with the tokens."""
    check_text(text)
    if tokenizer is None:
        raise NoTokenizerError(f"the text {text[:40]!r}")
    ids = encode(tokenizer, text, add_special_tokens=False)
    found = _one_of(tokenizer, text, ids)
    if found is not None:
        return found
    pieces = [token_text(tokenizer, token) for token in ids]
    first = next((k for k, piece in enumerate(pieces) if piece.strip(" ")), 0)
    spaced = f" {text}"
    inside = encode(tokenizer, spaced, add_special_tokens=False)
    if text.startswith(" ") or _one_of(tokenizer, spaced, inside) is None:
        spaced = ""
    raise TokenError.several(text, pieces, first, spaced)


def _one_of(tokenizer: Any, text: str, ids: list[int]) -> int | None:
    """The one token of a text, or None; some tokenizers put a space in front of a text themselves:
    of a word that becomes part of its token, before a letter it is a token by itself."""
    if len(ids) == 2 and not text.startswith(" ") and _entry(tokenizer, ids[0]) == SPACE:
        ids = ids[1:]
    if len(ids) == 1:
        _check_known(tokenizer, text, ids[0])
        return ids[0]
    if text.startswith(" "):
        bare = encode(tokenizer, text[1:], add_special_tokens=False)
        if len(bare) == 1 and token_text(tokenizer, bare[0]) == text:
            return bare[0]
    return None


def _check_known(tokenizer: Any, text: str, token: int) -> None:
    """Raise TokenError where a token stands for whatever the vocabulary does not have."""
    model = getattr(tokenizer, "model", None)  # of `tokenizers`' own class
    unknown = getattr(tokenizer, "unk_token", None) or getattr(model, "unk_token", None)
    if isinstance(unknown, str) and _entry(tokenizer, token) == unknown != text.strip():
        raise TokenError.unknown(text, unknown)


def position_of(tokenizer: Any, prompt: Any, part: Any, occurrence: int | None = None) -> int:
    """The position of the token that a part of a prompt ends with.

    Raises: TokenError where the part is not there, ends inside a token, or is there several times.
    """
    if not isinstance(part, str) or not part:
        raise InputError(
            f"a part of the text is needed, and this is {part!r:.60}.\n"
            "  Write model.position(text, ' France')."
        )
    spans = spans_of(tokenizer, prompt)
    ends = {}  # the last token to end there: a character may be several tokens
    for position, (start, end) in enumerate(zip(spans.starts, spans.ends, strict=True)):
        if end > start:
            ends[end] = position
    found = _occurrences(spans.text, part)
    if not found:
        raise TokenError.absent(part, spans.text)
    positions = [ends[end] for end in found if end in ends]
    if not positions:
        later = [at for end, at in ends.items() if end > found[0]]
        if not later:
            raise TokenError.left_out(part)
        position = min(later)
        raise TokenError.inside(part, token_text(tokenizer, spans.ids[position]), position)
    if occurrence is None:
        if len(positions) > 1:
            raise TokenError.ambiguous(part, positions)
        return positions[0]
    number = _whole(occurrence)
    if not -len(positions) <= number < len(positions):
        raise TokenError.no_such(part, number, len(positions))
    return positions[number]


def _occurrences(text: str, part: str) -> list[int]:
    """Where each occurrence of a part ends, overlapping ones too."""
    found = []
    at = text.find(part)
    while at >= 0:
        found.append(at + len(part))
        at = text.find(part, at + 1)
    return found


def _whole(occurrence: Any) -> int:
    try:
        return operator.index(occurrence)
    except TypeError:
        raise InputError(
            f"occurrence={occurrence!r:.40} is no whole number.\n  Write occurrence=0 for the"
            " first, occurrence=-1 for the last."
        ) from None


def spans_of(tokenizer: Any, prompt: Any) -> Spans:
    """The tokens of a prompt, and the characters that each is of."""
    if isinstance(prompt, str) or is_messages(prompt):
        ids = encode(tokenizer, prompt)
        text = prompt if isinstance(prompt, str) else templated(tokenizer, prompt)
        found = _told(tokenizer, text, ids) or _decoded(tokenizer, ids)
        return _without_bos(tokenizer, found, text)
    if tokenizer is None:
        raise NoTokenizerError("the position of a text")
    return _decoded(tokenizer, one_row(tokenizer, prompt))


def _without_bos(tokenizer: Any, spans: Spans, text: str) -> Spans:
    """The spans of a text whose tokens begin with a token that was added: it is no part of it."""
    first = len(getattr(tokenizer, "bos_token", None) or "")
    if not begins_with_bos(tokenizer, spans.text) or begins_with_bos(tokenizer, text):
        return spans
    starts, ends = ([max(end - first, 0) for end in part] for part in (spans.starts, spans.ends))
    return Spans(spans.ids, spans.text[first:], starts, ends)


def _told(tokenizer: Any, text: str, ids: list[int]) -> Spans | None:
    """What a fast tokenizer says of a text, where its tokens are the ones that the model gets."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None and hasattr(type(tokenizer), "token_to_id"):
        fast = tokenizer  # `tokenizers`' own class
    if fast is None:
        return None
    encoding = fast.encode(text, add_special_tokens=True)
    if list(encoding.ids) != ids:
        encoding = fast.encode(text, add_special_tokens=False)
    if list(encoding.ids) != ids:
        return None
    starts, ends, before = [], [], 0
    for start, end in encoding.offsets:
        # A space that belongs to no token is the next one's: some tokenizers leave it out.
        starts.append(min(start, before) if end > start else start)
        ends.append(end)
        before = max(before, end)
    found = Spans(ids, text, starts, ends)
    return _with_spaces(tokenizer, found) if _leaves_out_spaces(encoding, text) else found


def _leaves_out_spaces(encoding: Any, text: str) -> bool:
    """Whether a tokenizer has tokens of spaces and line breaks, and does not say where."""
    special = encoding.special_tokens_mask
    pairs = zip(encoding.offsets, special, strict=True)
    if any(start == end and not added for (start, end), added in pairs):
        return True
    return text != text.rstrip() and max((end for _, end in encoding.offsets), default=0) < len(
        text
    )


def _with_spaces(tokenizer: Any, told: Spans) -> Spans:
    """Spans by decoding, where what is decoded is the text; else as the tokenizer has it."""
    decoded = _without_bos(tokenizer, _decoded(tokenizer, told.ids), told.text)
    return decoded if decoded.text == told.text else told


def _decoded(tokenizer: Any, ids: list[int]) -> Spans:
    """What longer and longer beginnings of the tokens decode to."""
    text = _decode(tokenizer, ids)
    ends: list[int] = []
    for count in range(1, len(ids) + 1):
        begun = _decode(tokenizer, ids[:count])
        end = len(commonprefix([begun, text]))
        ends.append(max(end, ends[-1] if ends else 0) if count < len(ids) else len(text))
    starts = [0, *ends[:-1]]
    for at in reversed(range(len(ids) - 1)):  # parts of one character, up to the last of them
        if ends[at] == starts[at] and starts[at + 1] == starts[at]:
            ends[at] = ends[at + 1]
    return Spans(ids, text, starts, ends)
