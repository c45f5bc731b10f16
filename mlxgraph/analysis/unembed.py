"""From residual-stream states to token scores, by the model's own last steps.

A state is put in place of the last layer's output in a forward over dummy tokens, and what the
model makes of it are its scores.  So the final norm, a tied, untied or quantised head, and any
softcap or scaling of the logits are the model's own, whatever the architecture calls them; and
since MLX computes only what is asked for, no layer is computed.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxgraph.analysis.inputs import first_array, whole_number
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, ShapeError, UnembeddingError
from mlxgraph.errors.source_line import here


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
    model = _with_last_edits(model)
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
