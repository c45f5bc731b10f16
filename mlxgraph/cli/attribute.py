"""`mlxgraph attribute`: of one prompt direct logit attribution, of two attribution patching."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import mlxgraph as mg
from mlxgraph.cli import arguments as shared
from mlxgraph.cli.failures import UsageError
from mlxgraph.cli.frame import Command
from mlxgraph.cli.output import check_picture, deliver, progress
from mlxgraph.cli.pairs import EXAMPLE, add_map, check_map, ends, options_of

_WAYS = ("component", "head", "neuron", "position")
_OF_ONE = {"token": "--token", "against": "--against", "by": "--by"}
_OF_TWO = {
    "targets": "--targets", "heads": "--heads", "metric": "--metric", "direction": "--direction",
    "align": "--align", "raw": "--raw", "atp": "--atp",
    "graddrop": "--graddrop", "exact": "--exact",
}  # fmt: skip
_TOP = 10  # neurons that are listed


def _arguments(parser: Any) -> None:
    shared.add_model(parser)
    shared.add_text(parser, "prompt", 'a prompt; - for standard input\n"The capital of France is"')
    shared.add_text(
        parser,
        "corrupted",
        'one with another answer\n"The capital of Italy is"',
        nargs="?",
    )
    both = parser.add_argument_group("where")
    shared.add_layers(both)
    both.add_argument(
        "--positions", type=shared.places, metavar="LIST",
        help="of one prompt: whose logits (-1, the last); of two: which are exchanged, as for"
        " `patch` (all)\n--positions 3,5",
    )  # fmt: skip
    both.add_argument(
        "--top", type=shared.count, metavar="K", help="list the K largest alone\n--top 10"
    )
    one = parser.add_argument_group("of one prompt: what each part adds straight to a logit")
    one.add_argument(
        "--token", type=shared.token, metavar="TOKEN",
        help="whose logit, a text or an id (of the model's first choice)\n"
        '--token " Paris"\n--token id:42',
    )  # fmt: skip
    one.add_argument(
        "--against", type=shared.token, metavar="TOKEN",
        help="of the difference to another token's logit\n"
        '--against " Rome"',
    )  # fmt: skip
    one.add_argument(
        "--by", choices=_WAYS,
        help="attention and MLP of each layer, heads, neurons, or the positions that heads read"
        " (component)\n--by head",
    )  # fmt: skip
    two = parser.add_argument_group("of two prompts: attribution patching, an estimate of `patch`")
    add_map(two)
    two.add_argument(
        "--atp", action="store_true",
        help="AtP*: the step of queries and keys goes through the softmax exactly",
    )  # fmt: skip
    two.add_argument(
        "--graddrop", action="store_true",
        help="sizes, each layer held in turn: what others cancel shows; a backward pass a layer",
    )  # fmt: skip
    two.add_argument(
        "--exact", action="store_true", help="the exact sweep beside it, and how far they agree"
    )
    shared.add_shared(parser)
    shared.add_output(parser)


def _run(given: argparse.Namespace) -> None:
    _check(given)
    check_picture(given)
    if given.corrupted is None:
        _direct(given)
    else:
        _patching(given)


def _check(given: argparse.Namespace) -> None:
    """Raises: UsageError for options of the other form."""
    one = given.corrupted is None
    for name, option in (_OF_TWO if one else _OF_ONE).items():
        if getattr(given, name):
            raise UsageError(
                f"{option} is of two prompts, and there is one.  Write: mlxgraph attribute tiny"
                f" {EXAMPLE}"
                if one
                else f"{option} is of one prompt, and there are two.  Write: mlxgraph attribute"
                f' tiny "{shared.PROMPT}" --token " Paris"'
            )
    if one and given.component != ["output"]:
        raise UsageError("--component is of two prompts.  Of one, write --by component")
    if one and given.positions == shared.TOGETHER:
        raise UsageError("a logit is of one position.  Write --positions -1, or all")
    if one and given.by == "position" and not isinstance(given.positions, (int, type(None))):
        raise UsageError("--by position is of one position's logit.  Write --positions -1")
    if not one and given.direction == "noise" and not given.targets:
        raise UsageError(
            "a distance from the clean run is least at that run: it has no slope there.  Add two"
            ' answers, --targets " Paris" " Rome", or leave --direction noise out'
        )
    if given.graddrop and given.exact:
        raise UsageError(
            "--graddrop gives sizes without a sign, no estimate of the exact sweep.  Leave one of"
            " them out"
        )
    if not one:
        check_map(given, int(given.exact and not given.top))


# -- of one prompt ---------------------------------------------------------------------------------


def _direct(given: argparse.Namespace) -> None:
    (prompt,) = shared.texts_of(given, "prompt")
    model = shared.model_of(given)
    by = given.by or "component"
    effects = model.direct_logit_attribution(
        prompt, given.token, given.against, by,
        -1 if given.positions is None else given.positions, given.layers,
    )  # fmt: skip
    shown = effects.top(given.top or _TOP) if given.top or by == "neuron" else effects
    if given.json or (given.out is not None and given.out.suffix == ".json"):
        shown = effects if given.top is None else shown
    deliver(given, shown, after=_sum(effects))


def _sum(effects: Any) -> str:
    """A line: what the parts add up to."""
    logit, rest = effects.attrs["logit"], effects.attrs["rest"]
    if not isinstance(logit, float):
        return ""
    shown = float(np.nansum(np.asarray(effects)))
    which = "the difference of the logits" if "against" in effects.attrs else "the logit"
    if abs(rest) < 1e-4:
        return f"all together {shown:.4g}: {which}"
    return f"all together {shown:.4g}, with the rest ({rest:.4g}) {logit:.4g}: {which}"


# -- of two ----------------------------------------------------------------------------------------


def _patching(given: argparse.Namespace) -> None:
    texts = shared.texts_of(given, "prompt", "corrupted")
    model = shared.model_of(given)
    options = options_of(given)
    method = "atp*" if given.atp else "attribution"
    began = time.perf_counter()
    effects = model.attribution_patching(*texts, **options, method=method, graddrop=given.graddrop)
    after, spent = ends(given, effects), time.perf_counter() - began
    if given.exact:
        try:
            exact = model.activation_patching(*texts, **options, progress=progress())
        except mg.SweepStopped:
            deliver(given, effects, after=after)
            raise
        seconds = {"estimate": spent, "exact": time.perf_counter() - began - spent}
        effects, said = _beside(effects, exact, seconds)
        after = f"{after}\n{said}"
    deliver(given, effects.top(given.top) if given.top else effects, after=after)


def _beside(estimate: Any, exact: Any, seconds: dict[str, float]) -> tuple[Any, str]:
    """Both along an axis "method", and a line on how far they agree."""
    one, other = np.asarray(estimate), np.asarray(exact)
    known = np.isfinite(one) & np.isfinite(other)
    correlation = _correlation(one[known], other[known])
    whole = mg.Effects(
        np.stack([one, other]),
        {"method": ["estimate", "exact"], **estimate.axes},
        coords=estimate.coords,
        name=estimate.name,
        unit=estimate.unit,
        attrs={**estimate.attrs, "correlation": correlation, "seconds": seconds},
    )
    times = f"{seconds['estimate']:.2g} s against {seconds['exact']:.2g} s"
    return whole, f"correlation of the estimate with the exact sweep: {correlation:.3f}; {times}"


def _correlation(one: Any, other: Any) -> float:
    if one.size < 2 or not np.std(one) or not np.std(other):
        return float("nan")
    return float(np.corrcoef(one.astype(np.float64), other.astype(np.float64))[0, 1])


COMMAND = Command(
    "attribute",
    "which parts wrote the answer; or an estimate of `patch`",
    "Of one prompt, direct logit attribution: what each part adds straight to a token's logit."
    " Of two, attribution patching: what `mlxgraph patch` would give, to the first order, from two"
    " forwards and one backward pass.",
    (
        f'mlxgraph attribute tiny "{shared.PROMPT}" --token " Paris" --against " London"',
        f'mlxgraph attribute tiny "{shared.PROMPT}" --token " Paris" --by head --out heads.png',
        f"mlxgraph attribute tiny {EXAMPLE}",
        f"mlxgraph attribute tiny {EXAMPLE} --component attn mlp --positions together --exact",
    ),
    _arguments,
    _run,
)
