"""From residual-stream states to token scores, by the model's own last steps.

A state is put in place of the last layer's output in a forward over dummy tokens, and what the
model makes of it are its scores.  So the final norm, a tied, untied or quantised head, and any
softcap or scaling of the logits are the model's own, whatever the architecture calls them; and
since MLX computes only what is asked for, no layer is computed.

The scores of a long text are the largest thing there is, 16,384 tokens among 128,000 make 8 GiB:
whoever wants less of them takes them in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from mlxgraph.analysis.inputs import first_array, whole_number
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, ShapeError, UnembeddingError
from mlxgraph.errors.source_line import here

MOST_SCORES = 1 << 21  # scores held at a time: 8 MiB in float32, and more is no faster
SAME = {mx.float32: 1e-4}  # of the largest score: what is the same but for the order of sums
ROUGH = 0.03  # in half precision


def scores_in_blocks(
    model: Traceable, states: mx.array, apply_norm: bool = True
) -> Iterator[mx.array]:
    """What `token_scores` gives, some rows at a time, each block lazy.

    Whoever takes one and computes what it needs of it holds no other.
    """
    model = _with_last_edits(model)
    whole = _scores(model, states, apply_norm)  # never computed, where it is more than a block
    rows = max(1, MOST_SCORES // whole.shape[-1])
    if states.shape[0] <= rows:
        yield whole
        return
    del whole
    for start in range(0, states.shape[0], rows):
        yield _scores(model, states[start : start + rows], apply_norm)


def are_scores_of(model: Traceable, state: mx.array, logits: mx.array) -> bool:
    """Whether what a state (width,) becomes by itself are the logits (vocabulary,) that the model
    gave where it had it: not so where layers of another kind follow the last one."""
    scores = token_scores(model, state[None])[0].astype(mx.float32)
    wanted = logits.astype(mx.float32)
    same = (scores == wanted) | (mx.isnan(scores) & mx.isnan(wanted))
    gap = mx.where(same, 0.0, mx.abs(scores - wanted)).max().item()
    size = mx.where(mx.isfinite(wanted), mx.abs(wanted), 0.0).max().item()
    return bool(gap <= SAME.get(logits.dtype, ROUGH) * size)  # type: ignore[operator]


def token_scores(model: Traceable, states: mx.array, apply_norm: bool = True) -> mx.array:
    """The logits of residual-stream states, lazy.

    Args:
        states: shape (rows, width).
        apply_norm: False for states that have been through the final norm already.
    Returns: shape (rows, vocabulary), equal to what the model's own forward makes of a last
        layer's output.
    Raises: UnembeddingError for a model without a head, or with no norm that could be skipped;
        LayersError without layers; ShapeError for another width.
    """
    return _scores(_with_last_edits(model), states, apply_norm)


def _scores(model: Traceable, states: mx.array, apply_norm: bool) -> mx.array:
    """Args: model: with none but its last edits."""
    dummy = mx.zeros((states.shape[0], 1), dtype=mx.int32)
    entry = model.layers[-1] if apply_norm else model[_norm_to_skip(model)]
    with model.trace(dummy):
        stream = first_array(entry.output)
        if stream.shape[-1] != states.shape[-1] or stream.ndim != 3:
            raise ShapeError(
                f"states of shape {states.shape} do not fit {entry.path}, whose output here is "
                f"{stream.shape}",
                str(here()),
                "Give states of the residual stream: (width,) or (batch, width).",
            )
        stream[:, 0] = states
        scores = first_array(model.output)
        check_head(model, scores, stream.shape[-1])
        scores = scores[:, 0].save()
    return scores


def scores_in_place(model: Traceable, row: mx.array, states: mx.array) -> mx.array:
    """The logits of whole rows of states, in forwards on the text that they are of.

    Args: row: the text (1, length); states: shape (rows, length, width).
    Returns: shape (rows, length, vocabulary).  Edits at positions and what they read are those of
        the text.
    """
    with model.trace(mx.repeat(row, states.shape[0], axis=0)):
        first_array(model.layers[-1].output)[:] = states
        scores = first_array(model.output).save()
    return scores


def own_scores(model: Traceable, row: mx.array, stream: mx.array, index: Any) -> mx.array:
    """The model's own logits of a text at some positions, (positions, vocabulary), lazy, from what
    its last layer gave: no layer is computed again.

    Args: stream: shape (1, length, width); index: of positions.
    """
    with model.trace(row):
        first_array(model.layers[-1].output)[:] = stream
        scores = first_array(model.output)[0, index].save()
    return scores


def has_last_edits(model: Traceable) -> bool:
    """Whether edits stay on a model that come after its layers."""
    return is_edited(_with_last_edits(model))


def is_edited(model: Traceable) -> bool:
    """Whether edits stay on a model."""
    edits = getattr(model, "edits", None)
    return edits is not None and bool(edits.writes or edits.then)


def _with_last_edits(model: Any) -> Any:
    """The model with those of its edits that come after its layers.

    The others change nothing of what a state becomes, and may ask for positions of a text.
    """
    if not is_edited(model):
        return model
    plain = model.without_edits()
    with plain.trace(mx.zeros((1, 1), dtype=mx.int32)) as t:
        pass
    paths = [plain[name].path for name in t.activations]
    last = model.layers[-1].path
    later = {"", *(paths[paths.index(last) + 1 :] if last in paths else ())}

    def kept(graph: Any) -> Any:
        writes = [(site, node) for site, node in graph.writes if site.path in later]
        then = [kept(one) if hasattr(one, "then") else one for one in graph.then]
        return graph.replace(writes=writes, saves=(), then=[one for one in then if is_late(one)])

    def is_late(one: Any) -> bool:
        if hasattr(one, "then"):  # a graph among what is deferred
            return bool(one.writes or one.then)
        return any(plain[name].path in later for name in plain.sites(one.pattern))

    return plain.edit(kept(model.edits))


def final_norm(model: Traceable) -> str | None:
    """The path of the norm between the last layer and the head; None if there is none.

    It is the last norm that the forward calls, after the last layer: between the two a model may
    have layers of another kind.
    """
    plain = model.without_edits()  # edits may ask for positions of a text
    with plain.trace(mx.zeros((1, 1), dtype=mx.int32)) as t:
        pass
    last = model.layers[-1].path
    paths = [model[name].path for name in t.activations]
    behind = paths[paths.index(last) + 1 :] if last in paths else []
    norms = [path for path in behind if _is_norm(path, model)]
    return norms[-1] if norms else None


def _norm_to_skip(model: Traceable) -> str:
    norm = final_norm(model)
    if norm is None:
        raise UnembeddingError(
            "the forward calls no norm module after the last layer, so there is none to skip.\n"
            "  Leave out apply_norm=False."
        )
    return norm


def _is_norm(name: str, model: Traceable) -> bool:
    kind = type(model[name].module).__name__.lower()
    called = name.rpartition(".")[2]
    return "norm" in kind or "norm" in called or called.startswith("ln_")


def check_head(model: Traceable, scores: mx.array, width: int) -> None:
    """A bare stack of layers ends in states, not in scores."""
    if scores.shape[-1] != width:
        return
    tables = [m for _, m in model.named_modules() if "embedding" in type(m).__name__.lower()]
    if not any("weight" in m and m["weight"].shape[0] == width for m in tables):
        raise UnembeddingError(
            f"the model's output is as wide as its layers ({width}): it has no head that scores "
            "tokens.\n  Wrap the whole language model, not only its stack of layers."
        )


def check_positions(logits: mx.array) -> None:
    """Raises: UnembeddingError for an output that has no positions."""
    if logits.ndim < 3:
        raise UnembeddingError(
            f"the model gives {tuple(logits.shape)}: one prediction of a whole input, and none at"
            " each position.\n  Write model.activation_patching or model.ablation, with a metric of"
            " that prediction."
        )


def top_tokens(scores: mx.array, top_k: int, called: str = "top_k") -> tuple[mx.array, mx.array]:
    """The ids and scores of the best tokens, best first: two arrays (..., top_k), lazy."""
    top_k = whole_number(top_k, called)
    if top_k < 1:
        raise InputError(f"{called} must be at least 1, not {top_k}.")
    if top_k == 1:
        return (
            mx.argmax(scores, axis=-1, keepdims=True),
            mx.max(scores, axis=-1, keepdims=True),
        )
    top_k = min(top_k, scores.shape[-1])
    ids = mx.argpartition(-scores, kth=top_k - 1, axis=-1)[..., :top_k]
    best = mx.take_along_axis(scores, ids, axis=-1)
    order = mx.argsort(-best, axis=-1)
    return mx.take_along_axis(ids, order, axis=-1), mx.take_along_axis(best, order, axis=-1)


def known_value(state: Any) -> mx.array:
    """A state as a plain array; of a proxy in its block, the value that it has by then."""
    if not hasattr(type(state), "value"):  # what has one is a proxy, or was saved by one
        return mx.array(state)
    return mx.array(state.tolist(), dtype=state.dtype).reshape(state.shape)
