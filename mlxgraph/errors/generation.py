"""Generations: positions and steps without a meaning in one, and options it does not take."""

from __future__ import annotations

from collections.abc import Iterable

from mlxgraph.errors.base import MLXGraphError, close_matches, suggest
from mlxgraph.errors.inputs import InputError
from mlxgraph.errors.shapes import BoundsError


class PartOfTextError(MLXGraphError, ValueError):
    """Something along the axis of positions that forwards on parts of a text cannot do."""

    def __init__(self, what: str, where: str, advice: str = ""):
        super().__init__(f"{what}\n  at {where}{advice and chr(10) + '  ' + advice}")


class NoStepError(BoundsError):
    """A step of a generation that never comes, or that has no value of this name."""

    def __init__(self, what: str, where: str, advice: str = ""):
        lines = [what, where and f"  at {where}", advice and f"  {advice}"]
        MLXGraphError.__init__(self, "\n".join(filter(None, lines)))


class OptionError(InputError, TypeError):
    """An option that a generation does not take."""

    def __init__(self, name: str, known: Iterable[str], of: str = ""):
        """Args: of: what kind of generation does not take it."""
        known = list(known)
        hint = OPTIONS_ELSEWHERE.get(name)
        matches = "" if hint else suggest(close_matches(name, known))
        advice = hint or f"It takes: {', '.join(known)}"
        what = f"model.generate{of and f' of {of}'}"
        super().__init__(f"{what} takes no {name}=.{matches}\n  {advice}.")


_SAMPLER = "Write sampler=mlx_lm.sample_utils.make_sampler({}=...)"
_PROCESSOR = "Write logits_processors=mlx_lm.sample_utils.make_logits_processors({}=...)"
_DRAFT = "Leave it out: a draft model's tokens would not be those of the edited model's steps"
OPTIONS_ELSEWHERE = {
    **{name: _SAMPLER.format(name) for name in ("temp", "top_p", "top_k", "min_p")},
    **{name: _PROCESSOR.format(name) for name in ("logit_bias", "repetition_penalty")},
    "temperature": _SAMPLER.format("temp"),
    "do_sample": _SAMPLER.format("temp"),
    "max_new_tokens": "Write max_tokens=",
    "stop_at_eos": "Leave it out: a generation stops at the tokenizer's end-of-text tokens",
    "verbose": "Leave it out: write `for token in t.stream(): print(token.text, end='')`",
    "seed": "Write mx.random.seed(...) before it",
    "draft_model": _DRAFT,
    "num_draft_tokens": _DRAFT,
    "input_embeddings": "Write model.embed_tokens.output = ... under `with t.step[0]`",
    "cache": "Write prompt_cache=",
}
