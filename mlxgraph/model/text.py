"""Texts and tokens, as methods of a model: ids of a text, the text of ids, where a part of it is.

In: a model's tokenizer, and what the user gave.  Out: ids, texts, positions.
Never: runs anything.
"""

from __future__ import annotations

from typing import Any, Protocol

import mlx.core as mx

from mlxgraph.errors import NoTokenizerError
from mlxgraph.trace import encoding, tokens
from mlxgraph.trace.inputs import listed_ids
from mlxgraph.trace.texts import one_token, several_texts


class Tokenized(Protocol):
    """What has a tokenizer, or None in its place."""

    @property
    def tokenizer(self) -> Any: ...


def _needed(model: Tokenized, what: str) -> Any:
    if model.tokenizer is None:
        raise NoTokenizerError(what)
    return model.tokenizer


def encode(model: Tokenized, text: Any, add_special_tokens: bool | None = None) -> list[int]:
    """Token ids of a text, as a trace of it has them.

    Args:
        text: a text; or messages, a list of `{"role": ..., "content": ...}`, by way of the
            tokenizer's chat template with the words that begin the answer.
        add_special_tokens: True adds those that the tokenizer adds to a text, False none; left
            out, they are added unless the text begins with the BOS token already, written out.
    Raises: NoTokenizerError; InputError for what is no text, and for special tokens added to
        messages, whose template writes them; NoChatTemplateError, ChatError (both InputErrors).
    """
    return encoding.encode(_needed(model, "encode"), text, add_special_tokens)


def encode_batch(
    model: Tokenized, texts: Any, add_special_tokens: bool | None = None
) -> list[list[int]]:
    """Token ids of several texts, each of its own length.  Args, Raises: as for `encode`."""
    tokenizer = _needed(model, "encode")
    return [encoding.encode(tokenizer, one, add_special_tokens) for one in several_texts(texts)]


def decode(model: Tokenized, tokens: list[int] | mx.array) -> str:
    """The text of token ids, a list or a one-dimensional array.  Raises: NoTokenizerError."""
    return str(_needed(model, "decode").decode(listed_ids(tokens)))


def token_to_str(model: Tokenized, token_id: int) -> str:
    """The text of one token, with the space that it begins with.  Raises: NoTokenizerError."""
    tokenizer = _needed(model, "decode")
    return tokens.token_text(tokenizer, listed_ids([one_token(token_id)])[0])


def str_tokens(model: Tokenized, text: Any) -> list[str]:
    """The text of each token of a prompt as the model gets it, special tokens included.

    Args: text: a text, messages, or token ids of one row.
    Returns: one string for each token; `str_tokens(text)[p]` is the token at position p.  A part
        of a character that is several tokens shows as "\ufffd".
    Raises: NoTokenizerError, InputError.

    Example:
        >>> model.str_tokens("The capital of France is")
    """
    tokenizer = _needed(model, "str_tokens")
    return [tokens.token_text(tokenizer, token) for token in tokens.one_row(tokenizer, text)]


def single_token(model: Tokenized, text: str) -> int:
    """The id of a text that is one token: `model.single_token(" Paris")`.

    Raises: TokenError (an InputError) with the pieces, where it is several tokens or none;
        NoTokenizerError.

    Example:
        >>> model.single_token(" Paris")
    """
    return tokens.single_token(_needed(model, "single_token"), text)


def position(model: Tokenized, text: Any, part: str, *, occurrence: int | None = None) -> int:
    """The position of a part of a prompt: of the last token of it, as ROME counts subjects.

    Args:
        text: a text, messages, or token ids of one row: what is traced.
        part: some of its characters, such as " France", that end where a token ends.
        occurrence: which one, where the part is there several times: 0 is the first, -1 the last.
    Returns: an index from the prompt's first token on, special tokens included, for `h[:, p]` and
        `positions=`.  In a batch of several lengths `positions=` counts in each text by itself, and
        the columns of `h[:, p]` count the padding in: there `p - len(model.encode(text))`, from
        the end, is the same token.
    Raises: TokenError (an InputError) where the part is absent, ends inside a token, or is there
        several times and no `occurrence` says which; NoTokenizerError.
    Source: the last token of the subject, Meng et al. 2022, arXiv:2202.05262.

    Example:
        >>> model.position("The capital of France is", " France")
    """
    return tokens.position_of(_needed(model, "position"), text, part, occurrence)


def vocab_size(model: Tokenized) -> int | None:
    """The tokenizer's vocabulary size, or None without a tokenizer."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        return None
    if hasattr(tokenizer, "get_vocab_size"):  # `tokenizers`' own class
        return int(tokenizer.get_vocab_size())
    return int(getattr(tokenizer, "vocab_size", None) or len(tokenizer))
