"""Handles on what a module's own forward computes: `module.ops`, and the values of an attention.

    model.layers[3].mlp.ops                     what the forward of this module calls, as a list
    model.layers[3].mlp.ops["softmax"].output   the first `mx.softmax`: a site like any other
    model.layers[3].mlp.ops["softmax", 1]       the second; -1 is the last
    model.layers[3].attn.pattern                a value of its attention, in a block

Names are MLX's without the package: `mx.softmax` is `softmax`, `mx.fast.rope` is `fast.rope`,
`nn.silu` is `silu`.  Numbers run through all calls of the module in one forward; of one from the
end a graph keeps what it is in this forward.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from mlxgraph.errors import InputError, NeverCalledError, NoLayerError, UnknownSiteError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.graph.census import Census
from mlxgraph.graph.inside import ATTENTION, OPS, below, parted
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.nothing_inside import nothing_there
from mlxgraph.graph.site import BY_NAME, INPUTS, OUTPUT, Site
from mlxgraph.graph.stream import STREAM
from mlxgraph.graph.values import dtype_name
from mlxgraph.mlx_facts.originals import ARRAY, zeros
from mlxgraph.mlx_facts.watching import operation_names, other_names
from mlxgraph.record.no_value import names_a_module, written
from mlxgraph.record.recording import Recording
from mlxgraph.record.stack import paused, recording_on
from mlxgraph.run.names import with_own_ops
from mlxgraph.trace.inputs import prepare
from mlxgraph.trace.ports import Called
from mlxgraph.trace.stream_handle import stream, write_stream

EXAMPLE_LENGTH = 8


@names_a_module
@with_edges
class InsideHandle(Called):
    """One site inside a module: `.output`, `.input` (first positional argument) and `.inputs`
    (`(args, kwargs)`), readable and writable in a block; `.skip(value)` does not call it.

    Attributes: path: its canonical name; line: the line of the model's code that calls it.
    """

    __slots__ = ("_owner", "_tail", "_number")

    def __init__(self, owner: Any, tail: str, number: int = BY_NAME):
        put = object.__setattr__
        put(self, "_owner", owner)
        put(self, "_tail", tail)
        put(self, "_number", number)

    @property
    def path(self) -> str:
        """The canonical name, without the number of the call."""
        return below(self._owner.path, self._tail)

    @property
    def _path(self) -> str:  # for whoever writes a handle as it is written in Python
        return str(self)

    def _site(self, port: str) -> Site:
        return site_inside(self._owner, self._tail, port, self._number)

    def _recording(self, what: str) -> Recording:
        return self._owner._recording(f"{self._tail}.{what}")

    @property
    def output(self) -> Any:
        """What it gives: a proxy, or a nested proxy."""
        return self._recording("output").read(self._site(OUTPUT))

    @output.setter
    def output(self, value: Any) -> None:
        self._recording("output").replace(self._site(OUTPUT), value)

    def skip(self, value: Any) -> None:
        """Do not call it: `value`, known by then and of its output's shape, goes on."""
        self._recording("skip").skip(self._site(OUTPUT), value)

    @property
    def line(self) -> str:
        """The line of the model's code that calls it, `file.py:88`."""
        census, site = census_of(self._owner), self._site(OUTPUT)
        if not census.visits(census.meant(site)):
            raise nothing_there(census, site)
        return census.inside[census.meant(site)]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        advice = f"Write {self}.output.{name} for the value." if hasattr(ARRAY, name) else ""
        ports = ["output", "input", "inputs", "skip", "line", "path"]
        raise UnknownSiteError(name, ports, str(self), kind="attribute", advice=advice)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("output", "input", "inputs"):
            raise UnknownSiteError(name, ["output", "input", "inputs"], f"a write to {self}")
        object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        return type(other) is InsideHandle and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, Site]:
        return id(self._owner._engine.root), self._site(OUTPUT)

    def __str__(self) -> str:
        """The name that every call takes in place of the handle."""
        return self.path + (f".calls[{self._number}]" if self._number > 0 else "")

    def __repr__(self) -> str:
        return f"<{self}>"


@with_edges
class Operations:
    """`module.ops`: what the module's own forward calls of `mx.*` and `nn.*`, in order.

    In a block these are the calls of its forward; elsewhere of a forward on a few token ids.  A
    function that the model compiles itself (`@mx.compile`) is one operation, by its name.  Methods
    and operators of arrays are none.
    """

    __slots__ = ("_owner",)

    def __init__(self, owner: Any):
        self._owner = owner

    def __getitem__(self, key: str | tuple[str, int]) -> InsideHandle:
        """An operation by its name, or by its name and number.  Raises: InputError,
        NeverCalledError for one that the forward does not call, NoLayerError for a number of it."""
        name, number = key if isinstance(key, tuple) and len(key) == 2 else (key, None)
        if not isinstance(name, str) or (
            number is not None and not hasattr(type(number), "__index__")
        ):
            raise InputError(
                f"an operation goes by its name, or by its name and a number, not by {key!r}.\n"
                f"  at {here()}\n  Write {self._name}['softmax'], or {self._name}['softmax', 1] for"
                " the second."
            )
        tail = f"{OPS}.{_as_listed(name)}"
        if number is None:
            return InsideHandle(self._owner, tail)
        if number >= 0 and _recording_of(self._owner) is None:
            return InsideHandle(self._owner, tail, number)
        census, site = census_of(self._owner), site_inside(self._owner, tail, OUTPUT, 0)
        if not census.visits(site):
            raise nothing_there(census, site)
        count = census.calls(site.path)
        if not -count <= number < count:
            raise NoLayerError("calls", number, count, str(here()), site.path)
        return InsideHandle(self._owner, tail, number % count)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise UnknownSiteError(
            name, (), self._name, kind="attribute", near=[],
            advice=f"Write {self._name}[{name!r}] for an operation of that name.",
        )  # fmt: skip

    def __setitem__(self, key: Any, value: Any) -> None:
        name = key if isinstance(key, str) else "softmax"
        raise InputError(
            f"{self._name} lists operations, and holds no values.\n  at {here()}\n"
            f"  Write {self._name}[{name!r}].output = value."
        )

    def _sites(self) -> list[Site]:
        census, owner = census_of(self._owner), self._owner._site(OUTPUT).path
        if not census.calls(owner):
            raise NeverCalledError(self._name, str(here()), (), 0, "its module is not called.")
        inside = census.inside_of(owner)
        return [s for s in inside if (parted(s.path) or ("", ""))[1].startswith(f"{OPS}.")]

    def __iter__(self) -> Iterator[InsideHandle]:
        return (InsideHandle(self._owner, _tail(site), site.call) for site in self._sites())

    def __len__(self) -> int:
        return len(self._sites())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and f"{OPS}.{_as_listed(name)}" in map(_tail, self._sites())

    def _rows(self) -> list[tuple[str, str, str, str]]:
        census, rows = census_of(self._owner), []
        for site in self._sites():
            name = repr(_tail(site).removeprefix(f"{OPS}."))
            name += f", {site.call}" if site.call else ""
            given = _shapes(census.values[site._replace(port=INPUTS)])
            rows.append((name, given, _shapes(census.values[site]), census.inside[site]))
        return rows

    @property
    def _name(self) -> str:
        return f"{written(self._owner)}.{OPS}"

    def __repr__(self) -> str:
        """One line an operation: name and number, what it is given, what it gives, where."""
        try:
            rows = self._rows()
        except (NeverCalledError, InputError) as error:
            return f"<{self._name}: {str(error).splitlines()[0]}>"
        if not rows:
            return f"<{self._name}: its own forward calls no function of MLX>"
        wide = [max(len(row[k]) for row in rows) for k in range(3)]
        lines = [
            f"  [{name}]".ljust(wide[0] + 5) + f"{given:<{wide[1]}} -> {gives:<{wide[2]}}  {line}"
            for name, given, gives, line in rows
        ]
        return "\n".join([f"{self._name}, in the order of its forward:", *lines])

    def _repr_html_(self) -> str:
        rows = [("operation", "given", "gives", "line"), *self._rows()]
        cells = ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows]
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        return f"<table><caption>{html.escape(self._name)}</caption>{body}</table>"


def _as_listed(name: str) -> str:
    """A name as operations are listed: `mx.softmax` is `softmax`, `nn.silu` is `silu`."""
    known = operation_names().values()
    short = name if name in known else name.removeprefix("mx.").removeprefix("nn.")
    return other_names().get(short, short)


def _tail(site: Site) -> str:
    return (parted(site.path) or ("", ""))[1]


def _shapes(value: Any) -> str:
    found = [
        f"{tuple(v.shape)} {dtype_name(v.dtype)}" for v in leaves(value) if isinstance(v, ARRAY)
    ]
    return ", ".join(found)


def site_inside(owner: Any, tail: str, port: str, number: int) -> Site:
    """The site of what follows a module handle."""
    site: Site = owner._site(port)
    if number == BY_NAME and site.call != BY_NAME:
        number = 0
    return site._replace(path=below(site.path, tail), call=number)


def census_of(owner: Any) -> Census:
    """What the block that is open on a model visits, or a forward on a few token ids."""
    engine, recording = owner._engine, _recording_of(owner)
    if recording is not None:
        return recording.visited
    try:
        with paused():
            call = prepare((zeros((1, EXAMPLE_LENGTH), mx.int32),), engine)
            return engine.runner.census(call)
    except Exception as error:
        raise InputError(
            f"what {written(owner)} calls is known in a block, for this model does not run on"
            f" {EXAMPLE_LENGTH} token ids.\n  Write `with model.trace(x):` and ask for them there."
        ) from error


def _recording_of(owner: Any) -> Any:
    """The block that a module's handle was made by, or the one that is open on its model."""
    if owner._opened is not None:
        return owner._opened(OPS)
    return recording_on(owner._engine.root)


# -- as attributes of a module's handle ------------------------------------------------------------


def inside(owner: Any, name: str) -> Any:
    """`module.ops`, the residual stream at a layer, or in a block a value of the module's
    attention; None for any other name."""
    if name == OPS:
        taken = owner.path in with_own_ops(owner._engine.names.tree)
        return None if taken else Operations(owner)
    if name in STREAM:
        return stream(owner, name)
    if name not in ATTENTION or not owner.path or _recording_of(owner) is None:
        return None
    return owner._recording(name).read(_attention_site(owner, name))


def write_inside(owner: Any, name: str, value: Any) -> bool:
    """`attn.pattern = value`: whether the name is one of these."""
    if name in STREAM:
        return write_stream(owner, name, value)
    if name not in ATTENTION or not owner.path:
        return False
    recording = owner._recording(name)
    recording.replace(_attention_site(owner, name), value)
    return True


def _attention_site(owner: Any, name: str) -> Site:
    site: Site = owner._site(OUTPUT)
    found = site_inside(owner, name, OUTPUT, site.call)
    census = census_of(owner)
    if not census.visits(census.meant(found)):
        reason = str(nothing_there(census, census.meant(found))).partition("has no value: ")[2]
        raise UnknownSiteError(
            name, (), written(owner), kind="value", advice=_sentence(reason), near=[]
        )
    if site.call > 0:
        if census.calls(found.path) != census.calls(site.path):
            raise NeverCalledError(
                site.spoken,
                str(here()),
                (),
                reason=f"one call of {site.path} computes several attentions, and they are numbered"
                f" through: {found.path}.calls[{site.call}] is number {site.call} of all.",
            )
    return found


def _sentence(reason: str) -> str:
    """A reason with a capital at its beginning, where that is no path."""
    return reason if "." in reason.split(" ", 1)[0] else reason[:1].upper() + reason[1:]
