"""Components of layers: what a name such as "resid_pre" or "heads" means in each of a model's.

In: a model, a text, a component's name.  Out: a `Place` in each layer that has it: its site, and
which axes of the value are positions and heads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.analysis.inputs import axes_at, first_array, holds_tokens, value_at
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, NeverCalledError, UnknownSiteError
from mlxgraph.ranks.held import shares
from mlxgraph.ranks.parts import gather, part

WHOLE_BLOCK = ("output", "resid_post", "block", "layer", "")
RESID_PRE, RESID_MID = "resid_pre", "resid_mid"
INSIDE = ("heads", "queries", "keys", "values", "pattern", "scores")  # with heads on axis 1
KNOWN = ("output", RESID_PRE, RESID_MID, "attn", "mlp", *INSIDE)
HEADS = 1  # the axis


class Place(NamedTuple):
    """A component in one layer.

    Attributes:
        name: the site.
        shape, dtype: of the value; positions: its axes of positions; heads: their number, or 0.
        alike: equal where a graph of one place, aimed at the other's layer, is the other's.
        parted: whether each rank of a sharded model has some of the heads; shape and heads are of
            all of them.
    """

    component: str
    layer: int
    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype
    positions: tuple[int, ...]
    heads: int
    alike: tuple
    parted: bool = False

    def value(self, model: Traceable) -> Any:
        """Its value, in an open block."""
        return self.whole(self.own(model))

    def own(self, model: Traceable) -> Any:
        """What this rank has of its value, in an open block."""
        return first_array(value_at(model, self.name))

    def whole(self, own: Any) -> Any:
        """All heads of what each rank has some of, in an open block."""
        return gather(own, HEADS) if self.parted else own

    def put(self, model: Traceable, index: Any, value: Any) -> None:
        """A value in the place of a part of its own, in an open block."""
        there = self.value(model)
        there[index] = value
        if self.parted:
            model[self.name].output = part(there, HEADS)


def places_of(
    model: Traceable, row: mx.array, component: Any, layers: Sequence[int], asked: bool
) -> list[Place]:
    """A component's places, by layer.

    Args: row: a text; asked: whether these layers were asked for: then each has to have it, and
        else those without it are left out.
    Raises: UnknownSiteError, NeverCalledError, InputError for what is no name.
    """
    if not isinstance(component, str):
        raise InputError(
            f"a component is a name, or a list of names, not {component!r:.60}.\n"
            f"  Write component='attn'; it may be {', '.join(map(repr, KNOWN))}, or any module of a"
            " layer."
        )
    blocks = {layer: model.layers[layer].path for layer in layers}
    sites: dict[int, str] = {}
    missing: Exception | None = None
    for layer, block in blocks.items():
        try:
            sites[layer] = _site(model, block, component)
        except UnknownSiteError as error:
            missing = missing or error
            if asked:
                raise
    modules = dict(model.named_modules())
    parted = {name for name in sites.values() if _is_parted(modules, name)}
    looked, failed = _looked_at(model, row, list(sites.values()), parted)
    for failure in failed.values():
        missing = missing or failure
        if asked:
            raise failure
    sites = {layer: name for layer, name in sites.items() if name in looked}
    if not sites and missing is not None:
        raise missing
    rows = [row[0].tolist()] if holds_tokens(row) else list(row)
    axes = axes_at(model, list(sites.values()), rows)
    found = []
    for layer, name in sites.items():
        shape, dtype, kind = looked[name]
        inside = name.rpartition(".")[2] in INSIDE and name not in modules
        tail = name.removeprefix(blocks[layer])
        alike = (
            tail,
            _sum_of(model, row, name, blocks[layer]) if component == RESID_MID else (),
            shape,
            str(dtype),
            kind,
            type(model.layers[layer].module).__qualname__,
        )
        positions = tuple(axes[name][1])
        heads = shape[HEADS] if inside else 0
        own = name in parted
        found.append(Place(component, layer, name, shape, dtype, positions, heads, alike, own))
    return found


def _is_parted(modules: Mapping[str, Any], name: str) -> bool:
    """Whether a rank has some heads of a value inside an attention."""
    path, _, tail = name.rpartition(".")
    return tail in INSIDE and name not in modules and shares(modules.get(path))


def _site(model: Traceable, block: str, component: str) -> str:
    """The site of a component in a block."""
    if component in WHOLE_BLOCK:
        return block
    if component == RESID_PRE:
        return f"{block}.input"
    if component == RESID_MID:
        return f"{block}.{component}"
    own = f"{block}.{component}"
    if component in INSIDE and all(path != own for path, _ in model.named_modules()):
        own = f"{block}.attn.{component}"
    try:
        found = model.sites(own)
    except UnknownSiteError:
        raise _unknown(model, block, component) from None
    if len(found) != 1:
        tails = [name.removeprefix(f"{block}.") for name in found]
        raise InputError(
            f"{component!r} is {len(found)} sites of {block}, and a component is one.\n"
            f"  Write a list of names for several: component={tails[:2]}."
        )
    return found[0]


def _unknown(model: Traceable, block: str, component: str) -> UnknownSiteError:
    below = [
        path.removeprefix(f"{block}.")
        for path, _ in model.named_modules()
        if path.startswith(f"{block}.")
    ]
    known = ", ".join(map(repr, KNOWN))
    others = [name for name in KNOWN if name != component]  # this one the layer has not
    advice = f"A component is {known}, or any module of the layer: {', '.join(below[:12])}."
    return UnknownSiteError(component, below, block, also=others, kind="component", advice=advice)


def _sum_of(model: Traceable, row: mx.array, name: str, block: str) -> tuple:
    """What a value is the sum of: sites in the block, by how much of each."""
    with model.trace(row) as trace:
        first_array(value_at(model, name)).save()
    graph = trace.graph
    sites = [str(site).removeprefix(block) for site in graph.sites]
    return (*sorted(sites), *graph.constants)


def _looked_at(
    model: Traceable, row: mx.array, names: Iterable[str], parted: Collection[str]
) -> tuple[dict[str, tuple[tuple[int, ...], mx.Dtype, str]], dict[str, Exception]]:
    """The shape, dtype and kind of each site's value; and why others have none."""
    found: dict[str, tuple[tuple[int, ...], mx.Dtype, str]] = {}
    failed: dict[str, Exception] = {}
    with model.trace(row):
        for name in names:
            try:
                whole = value_at(model, name)
            except (NeverCalledError, UnknownSiteError) as error:
                failed[name] = error
                continue
            value = first_array(whole)
            if not isinstance(value, mx.array):
                raise InputError(
                    f"{name} gives a {type(value).__name__}, which holds no array to put in place."
                )
            if name in parted:
                value = gather(value, HEADS)
            found[name] = tuple(value.shape), value.dtype, type(whole).__qualname__
    return found, failed
