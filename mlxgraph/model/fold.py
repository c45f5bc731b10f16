"""`model.fold(graph)`: edits that linear algebra allows become weights of an ordinary model.

An edit that does one affine map to each vector of a site (`model.affine`) is taken over by the
linear modules that the site's value ends in (`model.ends`): `y = x @ W.T + b`, followed by
`y -> y @ M + c`, is `x @ (M.T @ W).T + (b @ M + c)`.  All that befalls a module is put together
first, so each weight is read once.

In: a model, edits.  Out: another model, whose other weights are shared.  Never: changes a module of
the model's, or folds what is not certain.
"""

from __future__ import annotations

from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.inputs import first_array
from mlxgraph.errors import InputError
from mlxgraph.graph.graph import Graph, HasGraph, graph_of
from mlxgraph.mlx_facts.matrices import matrix_of
from mlxgraph.mlx_facts.modules import enter, is_embedding
from mlxgraph.mlx_facts.stored import can_store, stored, stored_scaled
from mlxgraph.model.affine import Affine
from mlxgraph.model.ends import Ends, ends_of
from mlxgraph.model.fold_steps import Step, steps_of
from mlxgraph.model.untie import has_tied_head, untied

M = TypeVar("M")
LENGTH = 8  # of the text that is tried
NEAR = 1e-3  # of the spread of the logits: rounding, where nothing is to change


def fold(self: M, graph: Graph | HasGraph | None = None, *example: Any, untie: bool = False) -> M:
    """The model with its edits, and a graph's, written into its weights: an ordinary model.

    What folds: a linear map of each vector, such as `iv.project_out`, `iv.scale` or `iv.zero_out`,
    at an embedding, at a linear module, or at a module whose value ends in linear modules alone (an
    attention's output projection, an MLP's down projection, the experts'); and a constant that is
    added, `iv.add_vector`, where that is one module that has a bias.  Which modules these are is
    found out by forwards on a few tokens.

    Quantised weights are dequantised, folded and quantised again, with the same mode, bits and
    groups, which rounds once more: by 0.29 of a group's step (root mean square), as the first
    time.  A scale of affine weights alone keeps their bits.

    Args:
        graph: edits that come after those that stay on the model.
        example: inputs to try the model on, where it takes other things than token ids, or where
            recorded edits fit texts of one length alone.
        untie: where the embedding is the head too, one weight that an edit of the embedding alone
            cannot be folded into, give the head a copy of its own first.
    Returns: a model without edits, which shares all other weights; this one is as it was.  `save`
        writes it to a folder.
    Raises: FoldError (a ValueError) for an edit that no weight can hold, with the edit and why:
        positions, heads, functions that are not linear, params without values, a norm between the
        weights and the site, a weight that is used elsewhere too; InputError where there is nothing
        to fold, NotAGraphError, and UnknownSiteError, CountError, ... as running the edits would.

    Example:
        >>> ablated = model.fold(mg.edit("layers.*.mlp", iv.project_out(v)))
    """
    model: Any = self
    whole = model.edits if graph is None else model.edits >> graph_of(graph)
    if not (whole.writes or whole.then or whole.saves):
        raise InputError(
            "there are no edits to fold.\n  Write model.fold(graph), or model.edit(graph).fold()."
        )
    inputs = example or (mx.arange(1, LENGTH + 1, dtype=mx.int32)[None],)
    plain = model.without_edits()
    steps = steps_of(plain, whole, inputs)
    ends = ends_of(plain, inputs, [step.path for step in steps])
    maps = _by_module(plain, steps, ends)
    folded = model._with(model._engine.with_own_modules())
    if untie and has_tied_head(folded) and any(_is_embedding(folded, path) for path in maps):
        untied(folded, inputs, maps[_embedding(folded, maps)][1])
    _check_alone(folded, inputs, maps, untie)
    for path, (change, step) in maps.items():
        _write(folded[path].module, path, change, step)
    folded.refresh()
    return folded  # type: ignore[no-any-return]


def _by_module(
    plain: Any, steps: list[Step], ends: dict[str, Ends]
) -> dict[str, tuple[Affine, Step]]:
    """What is done to each module's output in all, and the last step that has a part in it."""
    maps: dict[str, tuple[Affine, Step]] = {}
    inner_first = sorted(steps, key=lambda step: -step.path.count(".") - bool(step.path))
    for step in inner_first:
        found = ends[step.path]
        if not found.paths:
            raise step.error(
                f"the value of {step.name} is no linear function of what linear modules in it give",
                "A layer's output holds the residual stream too, and a norm or a cap is not linear:"
                " edit the modules that write to it instead (mg.directional_ablation edits all of"
                " them), or keep it as an edit.",
            )
        if step.change.offset is not None and not found.adds:
            raise step.error(
                f"it adds a constant, and the value of {step.name} is more than what one module"
                f" gives: {', '.join(found.paths)}",
            )
        for path in found.paths:
            before = maps.get(path)
            change = step.change if before is None else step.change.after(before[0])
            maps[path] = change, step
    for path, (change, step) in maps.items():
        module = plain[path].module
        if not can_store(module):
            raise step.error(f"{path} is a {type(module).__name__}, whose weights are not stored")
        if change.offset is not None and "bias" not in module and not is_embedding(module):
            raise step.error(
                f"it adds a constant, and {path} has no bias to take it",
                "Keep it as an edit, or add the vector where a module has a bias.",
            )
    return maps


def _is_embedding(model: Any, path: str) -> bool:
    return is_embedding(model[path].module)


def _embedding(model: Any, paths: Any) -> str:
    return next(path for path in paths if _is_embedding(model, path))


def _check_alone(
    model: Any, inputs: tuple, maps: dict[str, tuple[Affine, Step]], untie: bool
) -> None:
    """Raise where a weight has a part in anything but its module's one output.

    With zeros in its place and the module's output as it was, nothing may change.
    """
    with model.trace(*inputs, compile=False):
        outputs = {path: model[path].output.save() for path in maps}
        whole = first_array(model.output).save()
    mx.eval(whole, outputs)
    if _unchanged(model, inputs, outputs, list(maps), whole):
        return
    for path, (_, step) in maps.items():
        if _unchanged(model, inputs, outputs, [path], whole):
            continue
        if not _is_embedding(model, path):
            raise step.error(f"the weight of {path} is used elsewhere in the forward too")
        if untie or not has_tied_head(model):
            raise step.error(
                f"the weight of {path} is the head's too, and this model has no head of its own to"
                " give a copy to"
            )
        raise step.error(
            f"the weight of {path} is the head's too, which would change as well",
            "Write model.fold(graph, untie=True): the head gets a copy of its own,"
            f" {_size(model[path].module) / 1e6:.1f} MB.",
        )
    raise next(iter(maps.values()))[1].error("its weights are used elsewhere in the forward too")


def _size(module: Any) -> int:
    return sum(array.nbytes for array in module.values() if isinstance(array, mx.array))


def _unchanged(
    model: Any, inputs: tuple, outputs: dict[str, mx.array], paths: list[str], whole: mx.array
) -> bool:
    empty = model._with(model._engine.with_own_modules())
    for path in paths:
        module = empty[path].module
        for name in ("scales", "biases") if "scales" in module else ("weight",):
            if name in module:
                enter(module, name, mx.zeros_like(module[name]))
        if "bias" in module:
            enter(module, "bias", mx.zeros_like(module["bias"]))
    empty.refresh()
    with empty.trace(*inputs, compile=False):
        for path in paths:
            empty[path].output = outputs[path]
        got = first_array(empty.output).save()
    want = np.array(whole.astype(mx.float32))
    apart = np.abs(np.array(got.astype(mx.float32)) - want).max()
    return bool(apart <= NEAR * (want.max() - want.min()))


def _write(module: Any, path: str, change: Affine, step: Step) -> None:
    """The module's weights, with a map done to what it gives."""
    entries = None
    if change.scale is not None and change.offset is None:
        entries = stored_scaled(module, change.scale)
    if entries is None:
        matrix = matrix_of(module)
        assert matrix is not None
        if is_embedding(module):
            matrix = change(matrix)
        else:
            matrix = change.of_rows(matrix.swapaxes(-1, -2)).swapaxes(-1, -2)
        entries = stored(module, matrix)
    if "bias" in module:
        bias = module["bias"]
        entries["bias"] = change(bias.astype(mx.float32)).astype(bias.dtype)
    mx.eval(entries)  # before the next, so that one matrix of floats is there at a time
    for name, array in entries.items():
        if mx.issubdtype(array.dtype, mx.floating) and not mx.isfinite(array).all().item():
            raise step.error(f"the weight of {path} would not be finite")
        enter(module, name, array)
