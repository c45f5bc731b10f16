"""The ends of paths: senders and receivers as users name them.

In: names, patterns, handles, `(name, heads)`, a component of all layers, groups of these; or edges,
each of a sender and a receiver.
Out: for senders the cells of a map, for receivers what of each layer reads the stream.
Raises for the rest, with what to write instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.analysis.components import INSIDE, Place, places_of
from mlxgraph.analysis.inputs import axes_at, first_array, holds_tokens, value_at
from mlxgraph.analysis.map_runs import placed
from mlxgraph.analysis.questions import chosen_heads
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, ShapeError, UnknownSiteError
from mlxgraph.errors.source_line import here

OUTPUT, HEADS = "__model_output__", "heads"
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
    """Attributes: groups: what each sender is, patched together; axes: those of the result that
    senders make; at: each sender's place there."""

    groups: list[list[End]]
    axes: dict[str, Sequence[Any]]
    at: list[tuple[int, ...]]


class Receivers(NamedTuple):
    """Attributes: groups: what each receiver is, by label; single: whether it makes no axis."""

    groups: dict[str, list[End]]
    single: bool


class Edges(NamedTuple):
    """Attributes: senders, receivers: each of them once, by label; pairs: of numbers of these, by
    the label of the edge."""

    senders: dict[str, list[End]]
    receivers: dict[str, list[End]]
    pairs: dict[str, tuple[int, int]]


def senders_of(model: Traceable, row: mx.array, given: Any) -> Senders:
    """Raises: InputError, UnknownSiteError, HeadsError, BoundsError."""
    if isinstance(given, Mapping):
        groups = _groups(model, row, given, "senders")
        for ends in groups.values():
            _check_sends(ends)
        return Senders(
            [*groups.values()], {"sender": [*groups]}, [(k,) for k in range(len(groups))]
        )
    if _is_everywhere(model, given):
        places, layers = placed(model, row, given, None)
        heads = chosen_heads(None, places)
        axes: dict[str, Sequence[Any]] = {"layer": layers}
        if heads is not None:
            axes["head"] = heads.labels
        each: list[list[End]] = []
        at: list[tuple[int, ...]] = []
        for place in places[given]:
            for head in range(place.heads) if heads is not None else [None]:
                each.append([End(_label(place.name, head), place, head)])
                where = layers.index(place.layer)
                at.append((where,) if head is None else (where, head))
        return Senders(each, axes, at)
    specs, single = _specs(given, "senders")
    ends = _ends(model, row, specs)
    _check_sends(ends)
    each = [[end] for end in ends]
    if single and len(ends) == 1:
        return Senders(each, {}, [()])
    return Senders(each, {"sender": _labels(ends)}, [(k,) for k in range(len(ends))])


def _check_sends(ends: Sequence[End]) -> None:
    if any(end.place is None for end in ends):
        raise InputError(
            f"{OUTPUT} sends nothing: it is the end of every path.\n"
            "  Name a part of a layer, such as senders=['layers.1.attn']."
        )


def receivers_of(model: Traceable, row: mx.array, given: Any) -> Receivers:
    """Raises: InputError, UnknownSiteError, HeadsError, BoundsError."""
    if isinstance(given, Mapping):
        return Receivers(_groups(model, row, given, "receivers"), False)
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


def edges_of(model: Traceable, row: mx.array, given: Any) -> Edges:
    """Raises: InputError for what are no pairs, or where no path leads from the first to the
    second; and what senders and receivers raise."""
    named = [*given.items()] if isinstance(given, Mapping) else given
    pairs = [pair for _, pair in named] if isinstance(given, Mapping) else given
    if not isinstance(named, (list, tuple)) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs
    ):
        raise InputError(
            f"edges are a list of pairs, of a sender and a receiver, not {given!r:.60}.\n"
            "  Write edges=[('layers.1.attn', 'layers.3.mlp'), (('layers.2.attn', 3),"
            " '__model_output__')]."
        )
    if not named:
        raise InputError("edges=[] name none.\n  Write edges=[('layers.1.attn', 'layers.3.mlp')].")
    senders: dict[str, list[End]] = {}
    receivers: dict[str, list[End]] = {}
    found: dict[str, tuple[int, int]] = {}
    for number, (sender, receiver) in enumerate(pairs):
        _check_end(sender)
        _check_end(receiver)
        own, other = (
            _together(model, row, some, what)
            for some, what in ((sender, "senders"), (receiver, "receivers"))
        )
        _check_sends(own)
        here, there = _joined(sender, own), _joined(receiver, other)
        label = str(named[number][0]) if isinstance(given, Mapping) else f"{here} -> {there}"
        for name, ends, what in ((here, own, "sender"), (there, other, "receiver")):
            _check_group(name, ends, what)
        check_order([own], [other])
        senders.setdefault(here, own)
        receivers.setdefault(there, other)
        found[label] = [*senders].index(here), [*receivers].index(there)
    return Edges(senders, receivers, found)


def _check_end(given: Any) -> None:
    named = isinstance(given, (str, list, tuple)) or hasattr(type(given), "path")
    if not named or (isinstance(given, (list, tuple)) and not given):
        raise InputError(
            "an end of an edge is a part, or a list of parts that are patched together, not"
            f" {given!r:.60}.\n  Write edges=[(['layers.0.mlp', 'layers.1.attn'],"
            " 'layers.3.mlp')]."
        )


def _joined(given: Any, ends: list[End]) -> str:
    """The label of what is patched together."""
    return given if isinstance(given, str) else " + ".join(_labels(ends))


def check_order(senders: Sequence[Sequence[End]], receivers: Iterable[Sequence[End]]) -> None:
    """Raises: InputError where no sender comes before a receiver."""
    ends = [end for some in receivers for end in some]
    latest = max(float("inf") if end.place is None else end.place.layer for end in ends)
    earliest = min(end.place.layer for some in senders for end in some if end.place is not None)
    if earliest > latest or latest == BEFORE:
        raise InputError(
            f"no path leads from {senders[0][0].label} to {ends[0].label}: the model computes the"
            " receiver first.\n  Name receivers in later layers, or '__model_output__'."
        )


def _groups(
    model: Traceable, row: mx.array, given: Mapping[Any, Any], what: str
) -> dict[str, list[End]]:
    """Ends that are patched together, by label."""
    if not given:
        instead = "{'both': ['layers.1.attn', 'layers.2.mlp']}"
        raise InputError(f"{what}={{}} name none.\n  Write {what}={instead}.")
    groups = {str(label): _together(model, row, some, what) for label, some in given.items()}
    for label, ends in groups.items():
        _check_group(label, ends, what.removesuffix("s"))
    return groups


def _together(model: Traceable, row: mx.array, given: Any, what: str) -> list[End]:
    """The ends that something names, a component of every layer too."""
    if _is_everywhere(model, given):
        places, _ = placed(model, row, given, None)
        return [End(place.name, place, None) for place in places[given]]
    return _ends(model, row, _specs(given, what)[0])


def _check_group(label: str, ends: list[End], what: str) -> None:
    """Raises: InputError where one member would be in another one."""
    seen: set[tuple[str, int | None]] = set()
    for end in ends:
        key = (OUTPUT if end.place is None else end.place.name, end.head)
        if key in seen or (key[0], None) in seen:
            raise InputError(f"the {what} {label!r} names {end.label} twice.")
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
    return Place(site, BEFORE, site, "", shape, dtype, positions, 0, (site,))


def _label(name: str, head: int | None) -> str:
    return name if head is None else f"{name} head {head}"


def _labels(ends: Sequence[End]) -> list[str]:
    """Labels of an axis: canonical names where two ends were named alike."""
    labels = [end.label for end in ends]
    if len(set(labels)) == len(labels):
        return labels
    return [OUTPUT if e.place is None else _label(e.place.name, e.head) for e in ends]
