"""The ends of paths: senders and receivers as users name them.

In: names, patterns, handles, `(name, heads)`, or a component of all layers.
Out: for senders the cells of a map, for receivers what of each layer reads the stream.
Raises for the rest, with what to write instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.analysis.components import INSIDE, Place, places_of
from mlxgraph.analysis.inputs import axes_at, first_array, holds_tokens, value_at
from mlxgraph.analysis.map_runs import placed
from mlxgraph.analysis.questions import chosen_heads
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, ShapeError, UnknownSiteError
from mlxgraph.errors.source_line import here

OUTPUT = "__model_output__"
EVERYWHERE = ("attn", "mlp", "heads", "queries", "keys", "values")  # one in each layer
BEFORE = -1  # the layer of what comes before the layers


class End(NamedTuple):
    """One sender, or a part of a receiver.

    Attributes: place: None for the model's output; head: None for all of them at once.
    """

    label: str
    place: Place | None
    head: int | None


class Senders(NamedTuple):
    """Attributes: axes: those of the result that senders make; at: each sender's place there."""

    ends: list[End]
    axes: dict[str, Sequence[Any]]
    at: list[tuple[int, ...]]


class Receivers(NamedTuple):
    """Attributes: groups: what each receiver is, by label; single: whether it makes no axis."""

    groups: dict[str, list[End]]
    single: bool


def senders_of(model: Traceable, row: mx.array, given: Any) -> Senders:
    """Raises: InputError, UnknownSiteError, HeadsError, BoundsError."""
    if isinstance(given, Mapping):
        raise InputError(
            "senders are a list, and this is a dict.\n"
            '  Write senders=["layers.1.attn", ("layers.2.attn", 3)]; only receivers can be'
            " patched together."
        )
    if _is_everywhere(model, given):
        places, layers = placed(model, row, given, None)
        heads = chosen_heads(None, places)
        axes: dict[str, Sequence[Any]] = {"layer": layers}
        if heads is not None:
            axes["head"] = heads.labels
        ends: list[End] = []
        at: list[tuple[int, ...]] = []
        for place in places[given]:
            for head in range(place.heads) if heads is not None else [None]:
                ends.append(End(_label(place.name, head), place, head))
                where = layers.index(place.layer)
                at.append((where,) if head is None else (where, head))
        return Senders(ends, axes, at)
    specs, single = _specs(given, "senders")
    ends = _ends(model, row, specs)
    for end in ends:
        if end.place is None:
            raise InputError(
                f"{OUTPUT} sends nothing: it is the end of every path.\n"
                "  Name a part of a layer, such as senders=['layers.1.attn']."
            )
    if single and len(ends) == 1:
        return Senders(ends, {}, [()])
    return Senders(ends, {"sender": _labels(ends)}, [(k,) for k in range(len(ends))])


def receivers_of(model: Traceable, row: mx.array, given: Any) -> Receivers:
    """Raises: InputError, UnknownSiteError, HeadsError, BoundsError."""
    if isinstance(given, Mapping):
        groups = {
            str(label): _ends(model, row, _specs(some, "receivers")[0])
            for label, some in given.items()
        }
        if not groups:
            raise InputError("receivers={} name none.\n  Write receivers='__model_output__'.")
        for label, ends in groups.items():
            _check_group(label, ends)
        return Receivers(groups, False)
    if _is_everywhere(model, given):
        places, _ = placed(model, row, given, None)
        heads = given in INSIDE
        ends = [
            End(_label(place.name, head), place, head)
            for place in places[given]
            for head in (range(place.heads) if heads else [None])
        ]
        return Receivers({end.label: [end] for end in ends}, False)
    specs, single = _specs(given, "receivers")
    ends = _ends(model, row, specs)
    labels = _labels(ends)
    return Receivers(
        {label: [end] for label, end in zip(labels, ends, strict=True)}, single and len(ends) == 1
    )


def _check_group(label: str, ends: list[End]) -> None:
    """Raises: InputError where one member would be in another one."""
    seen: set[tuple[str, int | None]] = set()
    for end in ends:
        key = (OUTPUT if end.place is None else end.place.name, end.head)
        if key in seen or (key[0], None) in seen:
            raise InputError(f"the receiver {label!r} names {end.label} twice.")
        seen.add(key)


def _is_everywhere(model: Traceable, given: Any) -> bool:
    return isinstance(given, str) and given in EVERYWHERE and not _is_site(model, given)


def _is_site(model: Traceable, name: str) -> bool:
    return any(path == name for path, _ in model.named_modules())


def _specs(given: Any, what: str) -> tuple[list[Any], bool]:
    """What is named, and whether it was named by itself."""
    if isinstance(given, str) or hasattr(type(given), "path") or _is_with_heads(given):
        return [given], True
    if not isinstance(given, (list, tuple)):
        raise InputError(
            f"{what} are names of parts, not {given!r:.60}.\n"
            f"  Write {what}=['layers.1.attn', ('layers.2.attn', 3)]."
        )
    if not given:
        raise InputError(f"{what}=[] name none.\n  Write {what}=['layers.1.attn'].")
    return list(given), False


def _is_with_heads(given: Any) -> bool:
    """Whether something is a name and heads: `("layers.2.attn", 3)`."""
    if not isinstance(given, tuple) or len(given) != 2:
        return False
    name, heads = given
    named = isinstance(name, str) or hasattr(type(name), "path")
    return named and (
        heads == "all"
        or not (isinstance(heads, str) or hasattr(heads, "path") or _is_with_heads(heads))
    )


def _ends(model: Traceable, row: mx.array, specs: Sequence[Any]) -> list[End]:
    """Each end that is named, once."""
    wanted: list[tuple[str, str, Any]] = []  # label, site, heads
    for spec in specs:
        name, heads = spec if _is_with_heads(spec) else (spec, None)
        if not isinstance(name, str) and not hasattr(type(name), "path"):
            raise InputError(
                f"{spec!r:.60} is no name of a part, nor a name and heads.\n"
                "  Write 'layers.1.attn', or ('layers.2.attn', 3) for a head."
            )
        found = model.sites(name)
        for site in found:
            label = name if isinstance(name, str) and len(found) == 1 else site
            wanted.append((label, site.removesuffix(".output"), heads))
    places = _places(model, row, wanted)
    ends: dict[tuple[str, int | None], End] = {}
    for label, site, heads in wanted:
        place = places[site, heads is not None]
        chosen = None
        if heads is not None and place is not None:
            chosen = chosen_heads(heads, {place.component: [place]})
        for head in [None] if chosen is None else chosen.labels:
            key = (OUTPUT if place is None else place.name, head)
            ends.setdefault(key, End(_label(label, head), place, head))
    return list(ends.values())


def _places(
    model: Traceable, row: mx.array, wanted: Sequence[tuple[str, str, Any]]
) -> dict[tuple[str, bool], Place | None]:
    """The place of each site; with heads, that of the heads of an attention."""
    blocks = {model.layers[k].path: k for k in range(len(model.layers))}
    modules = {path for path, _ in model.named_modules()}
    found: dict[tuple[str, bool], Place | None] = {}
    tails: dict[str, list[tuple[int, tuple[str, bool]]]] = {}
    for label, site, heads in wanted:
        key = site, heads is not None
        if site in (OUTPUT, ""):
            if heads is not None:
                raise InputError(f"{OUTPUT} has no heads.\n  Write {OUTPUT!r} alone.")
            found[key] = None
            continue
        block = next((b for b in blocks if site == b or site.startswith(f"{b}.")), None)
        if block is None:
            if heads is not None:
                raise InputError(f"{label} is no part of a layer, and has no heads.")
            found[key] = _outside(model, row, site)
            continue
        tail = site.removeprefix(block).removeprefix(".")
        if heads is not None and tail.rpartition(".")[2] not in INSIDE and site in modules:
            tail = f"{tail}.heads"
        tails.setdefault(tail, []).append((blocks[block], key))
    for tail, some in tails.items():
        layers = list(dict.fromkeys(layer for layer, _ in some))
        by_layer = {place.layer: place for place in places_of(model, row, tail, layers, True)}
        for layer, key in some:
            found[key] = by_layer[layer]
    for place in found.values():
        if place is not None and (not place.positions or place.shape[0] != 1):
            raise ShapeError(
                f"{place.name} gives {place.shape}, of which no axis is that of the text",
                str(here()),
                "Name a part whose value has one.",
            )
    return found


def _outside(model: Traceable, row: mx.array, site: str) -> Place:
    """The place of what comes before the layers: an embedding."""
    first = model.layers[0]
    try:
        with model.trace(row):
            value = first_array(value_at(model, site))
            shape, dtype = tuple(value.shape), value.dtype
            stream = first_array(first.input)
            stream[...] = stream + (0 * mx.sum(value)).astype(stream.dtype)
    except (ValueError, TypeError) as error:
        if isinstance(error, UnknownSiteError):
            raise
        raise InputError(
            f"{site} is no part of a layer, and does not come before the layers.\n"
            "  A sender is a part of a layer, such as 'layers.1.attn', or the embedding; a receiver"
            " a part of a layer or '__model_output__'."
        ) from None
    rows = [row[0].tolist()] if holds_tokens(row) else list(row)
    positions = tuple(axes_at(model, [site], rows)[site][1])
    return Place(site, BEFORE, site, shape, dtype, positions, 0, (site,))


def _label(name: str, head: int | None) -> str:
    return name if head is None else f"{name} head {head}"


def _labels(ends: Sequence[End]) -> list[str]:
    """Labels of an axis: canonical names where two ends were named alike."""
    labels = [end.label for end in ends]
    if len(set(labels)) == len(labels):
        return labels
    return [OUTPUT if e.place is None else _label(e.place.name, e.head) for e in ends]
