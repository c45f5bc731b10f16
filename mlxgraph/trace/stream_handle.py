"""The residual stream at a layer: `layers[3].resid_pre`, `.resid_mid`, `.resid_post`.

In a block they are values, read and written as any (`graph.stream`); outside of one they are
handles, `model["layers.3.resid_mid"]` everywhere: names to give to `mg.edit` and the analyses, with
the value as `.output`.  A module or an attribute of a layer that is really called so comes first.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.errors import OutsideTraceError, UnknownSiteError
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.graph.inside import below
from mlxgraph.graph.site import OUTPUT, Site
from mlxgraph.graph.stream import RESID_MID, RESID_PRE, STREAM, is_layer
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.nested_proxy import first_array
from mlxgraph.record.no_value import names_a_module, written
from mlxgraph.record.stack import recording_on


@names_a_module
@with_edges
class StreamHandle:
    """The residual stream at one layer, by name: in a block `.output` is its value.

    Attributes: path: its name.
    """

    __slots__ = ("_owner", "_tail")

    def __init__(self, owner: Any, tail: str):
        put = object.__setattr__
        put(self, "_owner", owner)
        put(self, "_tail", tail)

    @property
    def path(self) -> str:
        """The name that every call takes in place of the handle."""
        return below(str(self._owner), self._tail)

    @property
    def _path(self) -> str:  # for whoever writes a handle as it is written in Python
        return self.path

    @property
    def output(self) -> Any:
        """The value: a proxy of the stream, as a rule (batch, length, width)."""
        return read_stream(self._owner, self._tail)

    @output.setter
    def output(self, value: Any) -> None:
        write_stream(self._owner, self._tail, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name == "output":  # the property has raised, and Python asks here
            return read_stream(self._owner, self._tail)
        if (hasattr(ARRAY, name) or name == "save") and not _is_open(self._owner):
            raise OutsideTraceError(f"{written(self._owner)}.{self._tail}.{name}")
        advice = f"Write model[{self.path!r}].output.{name} for the value."
        raise UnknownSiteError(
            name, ["output", "path"], self.path, kind="attribute",
            advice=advice if hasattr(ARRAY, name) else "",
        )  # fmt: skip

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "output":
            raise UnknownSiteError(name, ["output"], f"a write to {self.path}")
        object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        return type(other) is StreamHandle and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, str]:
        return self._owner, self._tail

    def __reduce__(self) -> Any:
        return StreamHandle, (self._owner, self._tail)

    def __str__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"<{self.path}>"


def stream(owner: Any, name: str) -> Any:
    """`layer.resid_mid`: its value in a block, and else a handle; None for any other name."""
    if not _names_one(owner, name):
        return None
    return read_stream(owner, name) if _is_open(owner) else StreamHandle(owner, name)


def write_stream(owner: Any, name: str, value: Any) -> bool:
    """`layer.resid_mid = value`: whether the name is one of these."""
    if not _names_one(owner, name):
        return False
    if name == RESID_PRE:
        owner.input = value
        return True
    recording = owner._recording(name)
    site = _middle(owner) if name == RESID_MID else owner._site(OUTPUT)
    whole = recording.read(site)
    if isinstance(whole, ARRAY):
        recording.replace(site, value)
    else:
        recording.write(first_array(whole), value)
    return True


def read_stream(owner: Any, name: str) -> Any:
    """The value of the stream at a layer, in a block."""
    if name == RESID_PRE:
        return owner.input
    if name == RESID_MID:
        return owner._recording(name).read(_middle(owner))
    return first_array(owner.output)


def _names_one(owner: Any, name: str) -> bool:
    return name in STREAM and is_layer(owner.path)


def _is_open(owner: Any) -> bool:
    return owner._opened is not None or recording_on(owner._engine.root) is not None


def _middle(owner: Any) -> Site:
    site: Site = owner._site(OUTPUT)
    return site._replace(path=below(site.path, RESID_MID))
