"""How receivers are reached from senders, in one base run.

In: the ends of paths.  Out: pairs that something passes between, and the graph of each.
Raises for receivers that read no stream, or that cannot be patched together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.analysis.cells import Cell, part
from mlxgraph.analysis.components import Place
from mlxgraph.analysis.path_edges import END, Edges, arriving
from mlxgraph.analysis.path_ends import BEFORE, End
from mlxgraph.analysis.stream import Base, Read
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, UnknownSiteError

MLP = "mlp"
ROUNDING = 16  # steps of the dtype: kernels add in another order


class Pair(NamedTuple):
    """A sender's value and a receiver that it reaches.

    Attributes: at: where in the result; differences: for each part of the receiver what arrives at
        it, None where nothing can.
    """

    at: tuple[int, int, int]
    ends: list[End]
    differences: list[mx.array | None]


class Ways:
    """How receivers are reached, in one base run."""

    def __init__(
        self,
        model: Traceable,
        row: mx.array,
        senders: Sequence[Sequence[End]],
        receivers: Sequence[list[End]],
        labels: Sequence[str],
        through: str | None,
    ):
        self._model, self._row, self._receivers = model, row, receivers
        self._edges = Edges(model, row)
        self._inside: dict[tuple[tuple[int, int, int], int], mx.array] = {}
        layers = range(len(model.layers))
        sending = [end for ends in senders for end in ends]
        received = [end for ends in receivers for end in ends]
        first = max(0, min(end.place.layer for end in sending if end.place))
        last = max(layers[-1] if end.place is None else end.place.layer for end in received)
        self._base = base = Base(model, row, layers[first : last + 1])
        parts = {
            (end.place.layer, self._part(end))
            for end in received
            if end.place is not None and end.place.layer >= first
        }
        passing = self._mlps() if through == MLP else {}
        wanted = sorted({*parts, *passing.items()})
        reads = dict(zip(wanted, base.check(sorted(base.blocks), wanted), strict=True))
        self._reads = {own: reads[layer, own] for layer, own in parts}
        self._by_layer: dict[int, list[Read]] = {}
        for layer, own in sorted(parts):
            self._by_layer.setdefault(layer, []).append(reads[layer, own])
        self._through = None
        if through == MLP:
            self._through = {
                layer: base.after(layer, mlp) | {reads[layer, mlp].at}
                for layer, mlp in passing.items()
            }
        self._check_edits(reads.values())
        for end in sending:
            self._check_sender(end)
        for label, ends in zip(labels, receivers, strict=True):
            self._check_layers(label, ends)

    def _part(self, end: End) -> str:
        """The part of its layer by whose input a receiver is reached."""
        assert end.place is not None
        found = self._base.child_of(end.place.layer, end.place.name)
        if found is None or end.place.name == f"{found}.input":
            raise InputError(
                f"{end.label} is no part of a layer that reads the residual stream by itself.\n"
                "  A receiver is the model's output, a module of a layer such as 'layers.3.attn',"
                " or a value inside one, such as 'layers.3.attn.queries'."
            )
        return found

    def _mlps(self) -> dict[int, str]:
        """The MLP of each layer that has one."""
        found = {}
        for layer, block in self._base.blocks.items():
            try:
                names = self._model.sites(f"{block}.{MLP}")
            except UnknownSiteError:
                continue
            if len(names) == 1 and names[0] in self._base.children[layer]:
                found[layer] = names[0]
        if not found:
            raise InputError("no layer has an MLP to go through.\n  Leave through= out.")
        return found

    def _check_sender(self, end: End) -> None:
        assert end.place is not None
        layer = end.place.layer
        if layer == BEFORE or layer not in self._base.blocks:
            return
        child = self._base.child_of(layer, end.place.name)
        for read in self._by_layer.get(layer, ()):
            if child is not None and child == read.at != read.part:
                raise InputError(
                    f"{end.label} is what {read.part} reads the stream by, and not a part that adds"
                    f" to it.\n  Patch it as it is: model.activation_patching(..., component=...)."
                )

    def _check_edits(self, reads: Iterable[Read]) -> None:
        """Raises: InputError for an edit that stays where it would be passed over: a norm that
        several parts share is called again for one of them."""
        for read in reads:
            if not read.shared:
                continue
            made = self._base.made[read.at]
            again = self._model[read.at].module(self._base.given[read.at])
            gap = mx.abs(again - made).max()
            if (gap > ROUNDING * mx.finfo(made.dtype).eps * mx.abs(made).max()).item():
                raise InputError(
                    f"{read.at} is edited, and what it gives goes to {read.part} and to other"
                    " parts: an edge to one of them would be without that edit.\n"
                    "  Take the edit off: model.without_edits()."
                )

    def _check_layers(self, label: str, ends: list[End]) -> None:
        """Raises: InputError for two receivers, one inside a part, of one layer."""
        if len(ends) == 1:
            return
        parts: dict[int, set[str]] = {}
        inside = set()
        for end in ends:
            if end.place is not None and end.place.layer in self._base.blocks:
                part = self._part(end)
                parts.setdefault(end.place.layer, set()).add(part)
                if end.place.name != part:
                    inside.add(end.place.layer)
        every = {own for some in parts.values() for own in some}
        for own in every:
            at = self._reads[own].at
            if at != own and at in every:
                raise InputError(
                    f"the receiver {label!r} has {own} and {at} in it, by which the first reads the"
                    " stream: that would count twice.\n  Name one of the two."
                )
        passing = set().union(*(self._through or {}).values())
        twice = next((p for some in parts.values() for p in some if p in passing), None)
        if twice is not None:
            raise InputError(
                f"the receiver {label!r} has {twice} in it, and through='mlp' lets it pass on what"
                " changes as well: that would count twice.\n  Leave through= out, or make it a"
                " receiver of its own."
            )
        for layer in inside:
            whole = any(end.place is not None and end.place.name in parts[layer] for end in ends)
            if len(parts[layer]) > 1 or whole:
                raise InputError(
                    f"the receiver {label!r} has values inside a part of layer {layer}, and another"
                    " part of that layer.\n  Make two receivers of them."
                )

    def pairs(
        self,
        senders: Sequence[Sequence[End]],
        sent: Sequence[Mapping[str, mx.array]],
        own: Mapping[str, mx.array],
        wanted: Mapping[int, Sequence[int]],
    ) -> Iterator[Pair]:
        """What is to be run: senders' values and receivers that something arrives at.

        Args: sent: what each sender sends, by site, for one place after another; own: the values
            of the base run; wanted: the receivers of each sender, by number.
        """
        each = len(sent) // len(senders)
        several: dict[tuple[Place, ...], list[tuple[int, int]]] = {}
        for number, ends in enumerate(senders):
            places = {end.place.name: end.place for end in ends if end.place is not None}
            here = tuple(p for p in places.values() if p.layer in (BEFORE, *self._base.blocks))
            if here:
                cells = several.setdefault(here, [])
                cells += [(number, position) for position in range(each)]
        for here, cells in several.items():
            names = [place.name for place in here]
            values = [[sent[number * each + k][name] for name in names] for number, k in cells]
            arrived = arriving(
                self._model, self._row, self._base, here, [own[name] for name in names], values,
                self._by_layer, self._through,
            )  # fmt: skip
            first = min(place.layer for place in here)
            for (number, position), one in zip(cells, arrived, strict=True):
                matters = {at: bool(mx.any(value != 0).item()) for at, value in one.items()}
                for k in wanted[number]:
                    keys = [self._key(end, first, one) for end in self._receivers[k]]
                    found = [one[key] if key is not None and matters[key] else None for key in keys]
                    if any(value is not None for value in found):
                        yield Pair((number, position, k), self._receivers[k], found)

    def _key(self, end: End, layer: int, arrived: Mapping[str, mx.array]) -> str | None:
        """Under which name a receiver's difference is kept; None where no path leads there."""
        if end.place is None:
            return END
        if end.place.layer < layer or end.place.layer not in self._base.blocks:
            return None
        read = self._reads[self._part(end)]
        if read.at in arrived:
            return read.at
        return END if end.place.layer > layer else None

    def compute_inside(self, pairs: Sequence[Pair], options: Mapping[str, Any]) -> None:
        """The values inside parts, computed of the stream with what arrives: layer by layer, since
        those of one layer may go by what receivers before it pass on."""
        wanted: dict[int, list[tuple[Pair, list[int]]]] = {}
        for pair in pairs:
            by_layer: dict[int, list[int]] = {}
            for number, end in enumerate(pair.ends):
                if self._is_inside(end) and pair.differences[number] is not None:
                    assert end.place is not None
                    by_layer.setdefault(end.place.layer, []).append(number)
            for layer, numbers in by_layer.items():
                wanted.setdefault(layer, []).append((pair, numbers))
        for layer in sorted(wanted):
            runs: dict[Any, Any] = {}
            names: dict[Any, dict[str, Place]] = {}
            for pair, numbers in wanted[layer]:
                key = self._run_key(pair, layer)
                end, difference = pair.ends[numbers[0]], pair.differences[numbers[0]]
                if key not in runs:
                    read = self._reads[self._part(end)]
                    into = self._edges.into(read, self._base.blocks[layer], difference)
                    before = self.graph(pair, layer)
                    runs[key] = into if before is None else before >> into
                for number in numbers:
                    place = pair.ends[number].place
                    assert place is not None
                    names.setdefault(key, {})[place.name] = place
            alike = {tuple(some): [*some.values()] for some in names.values()}
            saves = {some: self._edges.saves(places) for some, places in alike.items()}
            graphs = [graph >> saves[tuple(names[key])] for key, graph in runs.items()]
            found = self._model.sweep(self._row, graphs, **options)
            values = {key: found[k] for k, key in enumerate(runs)}
            for pair, numbers in wanted[layer]:
                run = values[self._run_key(pair, layer)]
                for number in numbers:
                    end = pair.ends[number]
                    assert end.place is not None
                    self._inside[pair.at, number] = run[end.place.name][part(_spans(end))]
            mx.eval([*self._inside.values()])

    def _run_key(self, pair: Pair, layer: int) -> Any:
        """Equal where one run gives the values of both: receivers with nothing before them."""
        before = any(
            end.place is not None and end.place.layer < layer and difference is not None
            for end, difference in zip(pair.ends, pair.differences, strict=True)
        )
        own = next(
            self._part(end)
            for end in pair.ends
            if end.place is not None and end.place.layer == layer and self._is_inside(end)
        )
        return pair.at[:2], own, pair.at[2] if before else None

    def _is_inside(self, end: End) -> bool:
        return end.place is not None and (
            end.place.layer in self._base.blocks and end.place.name != self._part(end)
        )

    def graph(self, pair: Pair, before: int | None = None) -> Any:
        """The edit of a pair.  Args: before: only receivers in layers before this one."""
        found = None
        for number, (end, difference) in enumerate(zip(pair.ends, pair.differences, strict=True)):
            layer = len(self._model.layers) if end.place is None else end.place.layer
            if difference is None or (before is not None and layer >= before):
                continue
            if end.place is None:
                last = self._model.layers[len(self._model.layers) - 1].path
                one = self._edges.out(last, difference)
            elif self._is_inside(end):
                value = self._inside[pair.at, number]
                one = self._edges.put(end.place, self._base.blocks[layer], _spans(end), value)
            else:
                read = self._reads[end.place.name]
                one = self._edges.into(read, self._base.blocks[layer], difference)
            found = one if found is None else found >> one
        return found


def _spans(end: End) -> Any:
    assert end.place is not None
    return Cell((0, 0, 0, 0), end.place, None, end.head).spans()
