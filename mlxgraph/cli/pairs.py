"""Arguments of maps of a clean prompt and a corrupted one, which `patch` and `attribute` share."""

from __future__ import annotations

import argparse
from typing import Any

from mlxgraph.cli import arguments as shared
from mlxgraph.cli.failures import UsageError
from mlxgraph.cli.output import is_picture

DISTANCES = ("l2", "cosine", "mse", "kl")
LOGIT_DIFF = "logit_diff"
MOST_AXES = 3  # of a picture
CLEAN, CORRUPTED = "The capital of France is", "The capital of Italy is"
EXAMPLE = f'"{CLEAN}" "{CORRUPTED}" --targets " Paris" " Rome"'


def add_map(group: Any) -> None:
    """What is exchanged, where, and how it is scored."""
    group.add_argument(
        "--targets", nargs=2, type=shared.token, metavar=("CLEAN", "CORRUPTED"),
        help='the two answers, a token each, texts or ids\n--targets " Paris" " Rome"\n'
        "--targets id:42 id:7",
    )  # fmt: skip
    group.add_argument(
        "--component", nargs="+", default=["output"], metavar="NAME",
        help="what of a layer: output, resid_pre, resid_mid, attn, mlp; head by head heads,"
        " queries, keys, values, pattern, scores; or any module of it (output)\n"
        "--component attn mlp\n--component mlp.gate_proj",
    )  # fmt: skip
    group.add_argument(
        "--heads", type=shared.places, metavar="LIST",
        help="which heads, each by itself, or all\n--heads 0-3,7",
    )  # fmt: skip
    group.add_argument(
        "--metric", choices=(LOGIT_DIFF, *DISTANCES),
        help="the difference of the targets' logits, or a distance from the clean run's logits"
        f" ({LOGIT_DIFF} with --targets, else l2)\n--metric kl",
    )  # fmt: skip
    group.add_argument(
        "--direction", choices=("denoise", "noise"),
        help="denoise runs the corrupted prompt with clean parts: what is enough; noise the clean"
        " one with corrupted parts: what is needed (denoise)\n--direction noise",
    )  # fmt: skip
    group.add_argument(
        "--align", choices=("start", "end"),
        help="of prompts of different lengths: from which end positions match\n--align end",
    )  # fmt: skip
    group.add_argument(
        "--raw",
        action="store_true",
        help="the metric itself, not percent of the clean run's",
    )


def check_map(given: argparse.Namespace, axes: int = 0) -> None:
    """Raises: UsageError for what does not go together.  Args: axes: besides the map's own."""
    if given.metric == LOGIT_DIFF and not given.targets:
        raise UsageError('logit_diff is of two tokens.  Add them: --targets " Paris" " Rome"')
    if given.metric in DISTANCES and given.targets:
        raise UsageError(
            f"--targets are for --metric {LOGIT_DIFF}.  Leave --metric {given.metric} out, or them"
        )
    if given.heads == shared.TOGETHER:
        raise UsageError("heads are exchanged one by one.  Write --heads all, or leave it out")
    by_position = not isinstance(_positions(given), (int, type(None)))
    axes += 1 + (len(given.component) > 1) + by_position + _by_head(given)
    if is_picture(given) and axes > MOST_AXES and not getattr(given, "top", None):
        raise UsageError(
            f"a picture has {MOST_AXES} axes at most, and this result {axes}."
            "  Choose one --component, or one of --positions; or write --out map.json"
        )


def _by_head(given: argparse.Namespace) -> bool:
    if given.heads is not None:
        return not isinstance(given.heads, int)
    return all(name in shared.INSIDE for name in given.component)


def _positions(given: argparse.Namespace) -> Any:
    """As the library takes them: each by itself, but for heads, of which a map has enough."""
    if given.positions is None:
        return None if _by_head(given) else shared.ALL
    return None if given.positions == shared.TOGETHER else given.positions


def options_of(given: argparse.Namespace) -> dict[str, Any]:
    """The library's arguments."""
    one = len(given.component) == 1
    return {
        "component": given.component[0] if one else given.component,
        "layers": given.layers,
        "metric": given.metric or (LOGIT_DIFF if given.targets else "l2"),
        "positions": _positions(given),
        "heads": given.heads,
        "targets": tuple(given.targets) if given.targets else None,
        "normalize": not given.raw,
        "direction": given.direction or "denoise",
        "align": given.align,
    }


def ends(given: argparse.Namespace, effects: Any) -> str:
    """A line: the scores of both runs, and what the scale means."""
    metric = effects.attrs["metric"]
    if given.targets:  # a token without its space is another token
        one, other = (f"id:{t}" if isinstance(t, int) else repr(t) for t in given.targets)
        metric = f"{one} minus {other}"
    clean, corrupted = (f"{effects.attrs[name]:.3g}" for name in ("clean", "corrupted"))
    if effects.unit == "%":
        return f"100: the clean run ({metric} {clean}), 0: the corrupted one ({corrupted})"
    return f"{metric} of the clean run {clean}, of the corrupted one {corrupted}"
