"""What a user hands in that has to do with texts, tokens, loading and matrices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlxgraph.errors.base import MLXGraphError, close_matches, suggest
from mlxgraph.errors.inputs import InputError


class ChatError(InputError):
    """Messages of which no text can be made, or of which the template leaves one out."""


class NoChatTemplateError(ChatError):
    """Messages given to a model whose tokenizer has no chat template."""

    def __init__(self) -> None:
        super().__init__(
            "messages need a chat template, and this model's tokenizer has none: it was not made"
            " for chat.\n"
            "  Write the text itself, such as model.trace('Question: ...\\nAnswer:'); or give the"
            " tokenizer the template that the model was trained with:\n"
            '  model.tokenizer.chat_template = "{% for m in messages %}...{% endfor %}".'
        )


class TokenError(InputError):
    """A text that is not one token, or that does not say one position."""

    @classmethod
    def several(
        cls, text: str, pieces: Sequence[str], first: int = 0, spaced: str = ""
    ) -> TokenError:
        """Of a text that is several tokens, or none.

        `first` of them with more than spaces; `spaced`: the text with a space, if that is one.
        """
        if not pieces:
            return cls(f"{text!r} has no tokens.\n  Give the text of one token, such as ' Paris'.")
        advice = f"  A word within a text begins with a space: {spaced!r}.\n" if spaced else ""
        of_several = "the first of several" if not first else "the first that is no space"
        return cls(
            f"{text!r} is {len(pieces)} tokens: {', '.join(map(repr, pieces))}.\n{advice}"
            f"  Choose a text of one token, or take {of_several}:"
            f" model.encode({text!r}, add_special_tokens=False)[{first}]."
        )

    @classmethod
    def unknown(cls, text: str, token: str) -> TokenError:
        """Of a text that the vocabulary does not have."""
        return cls(
            f"{text!r} is not in the vocabulary: it becomes {token!r}, as everything does that is"
            " not.\n  Choose a text of one token, such as ' Paris'."
        )

    @classmethod
    def left_out(cls, part: str) -> TokenError:
        """Of a part that ends beyond the last token."""
        return cls(
            f"{part!r} ends after the last token: the tokenizer leaves spaces and line breaks out"
            " there.\n  Leave them out as well; model.str_tokens(text) shows the tokens."
        )

    @classmethod
    def absent(cls, part: str, text: str) -> TokenError:
        """Of a part that a text does not have."""
        return cls(
            f"{part!r} is not in the text {_short(text)}.\n"
            "  Spaces and capitals count; model.str_tokens(text) shows the tokens."
        )

    @classmethod
    def inside(cls, part: str, token: str, position: int) -> TokenError:
        """Of a part that ends within a token."""
        return cls(
            f"{part!r} ends inside the token {token!r} at position {position}.\n"
            f"  Write {token!r} for that token; model.str_tokens(text) shows them all."
        )

    @classmethod
    def ambiguous(cls, part: str, positions: Sequence[int]) -> TokenError:
        """Of a part that a text has more than once."""
        return cls(
            f"{part!r} is in the text {len(positions)} times, ending at positions"
            f" {', '.join(map(str, positions))}.\n"
            "  Write occurrence=0 for the first or occurrence=-1 for the last, or more of the text."
        )

    @classmethod
    def no_such(cls, part: str, occurrence: int, count: int) -> TokenError:
        """Of an occurrence that is not there."""
        times = "once" if count == 1 else f"{count} times"
        return cls(
            f"there is no occurrence={occurrence} of {part!r}, which is in the text {times}.\n"
            f"  Occurrences go from 0 to {count - 1}; -1 is the last."
        )


def _short(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else text[: most - 3] + "...")


class LoadOptionError(InputError, TypeError):
    """An option of loading that `mlx_lm.load` does not take, or one where nothing is loaded."""

    def __init__(self, names: Sequence[str], known: Iterable[str] | None):
        """Args: known: the options that there are; None where a model was given as an object."""
        said = ", ".join(f"{name}=" for name in names)
        own = ["tokenizer", "layer_attr"]
        if known is None:
            super().__init__(
                f"a model that is loaded already takes no {said}."
                f"{suggest(close_matches(names[0], own))}\n"
                "  Options of loading go with the path or the name of a model."
            )
            return
        known = list(known)
        super().__init__(
            f"mlx_lm.load takes no {said}.{suggest(close_matches(names[0], [*known, *own]))}\n"
            f"  It takes: {', '.join(known)}."
        )


class NoMatrixError(MLXGraphError, ValueError, TypeError):
    """A module that does not multiply by one matrix."""

    def __init__(self, name: str, kind: str, why: str, children: Sequence[str] = ()):
        modules = f"  Modules in it with one: {', '.join(children)}." if children else ""
        super().__init__(
            f"{name or 'the model'} ({kind}) {why}.\n"
            + (modules or "  model.parameters() has every parameter as it is stored.")
        )
