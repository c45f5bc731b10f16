"""Module handles: `model.layers[5].mlp`, the user's way to name a module of the tree.

A module handle is a path and nothing else; what it reads or writes goes to the block that is open
on its model in this thread, or to the one it was made by.  Inside `layers[i]`, `.attn` and `.mlp`
stand for whatever the block calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from types import MethodType
from typing import Any, overload

import mlx.nn as nn

from mlxgraph.errors import (
    NeverCalledError,
    NoLayerError,
    StepError,
    UnknownSiteError,
    WeightError,
)
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.evaluate.evaluate import same_data_in
from mlxgraph.graph import ops
from mlxgraph.graph.inside import ATTENTION, OPS, parted
from mlxgraph.graph.pattern import ALIASES
from mlxgraph.graph.site import BY_NAME, MODEL_OUTPUT, OUTPUT, Site
from mlxgraph.graph.stream import STREAM, is_layer, owner_of
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.handed import hand_out
from mlxgraph.record.no_value import names_a_module, written
from mlxgraph.record.recording import Recording
from mlxgraph.record.stack import recording_on
from mlxgraph.run.engine import Engine
from mlxgraph.run.names import NamedSite
from mlxgraph.trace.calls import Calls
from mlxgraph.trace.inside_handle import InsideHandle, inside, write_inside
from mlxgraph.trace.module_habits import no_loop, refuse_exchange, set_item
from mlxgraph.trace.open_block import call_module, open_recording, refreshed
from mlxgraph.trace.ports import Called
from mlxgraph.trace.stream_handle import StreamHandle

_SLOTS = ("_engine", "_path", "_opened", "_call")
_OF_VALUES = frozenset(name for name in dir(ARRAY) if name[0] != "_") | {
    "save",
    "backward",
    ops.GRAD,
}
_OF_PARAMETERS = ("parameters", "trainable_parameters")
PORTS = ("output", "input", "inputs", "calls", "skip", "ops")
Opened = Callable[[str], Recording]


@names_a_module
@with_edges
class ModuleHandle(Called):
    """A module of the model, by its path.

    Inside a trace: `.output`, `.input` (first positional argument) and `.inputs`
    (`(args, kwargs)`) are its values and can be assigned; `.calls[k]` is its k-th call in one
    forward; calling the handle runs the module on a value without the model's own edits.
    `.ops` are the functions of MLX that its own forward calls; `.queries`, `.keys`, `.values`,
    `.scores`, `.pattern` and `.heads` the values of the attention that it computes.
    Everything else is looked up on the module: its children as handles, its attributes as
    they are.
    """

    __slots__ = _SLOTS

    def __init__(
        self, engine: Engine, path: str, opened: Opened | None = None, call: int = BY_NAME
    ):
        """`opened` gives the recording of one block; left out, that of whichever is open."""
        put = object.__setattr__
        put(self, "_engine", engine)
        put(self, "_path", path)
        put(self, "_opened", opened)
        put(self, "_call", call)

    # -- values ---------------------------------------------------------------------------------

    def _recording(self, what: str) -> Recording:
        if self._opened is None:
            recording: Recording | None = recording_on(self._engine.root)
            if recording is not None:
                return recording
        what = f"{self._name}.{what}"
        if self._opened is not None:
            return self._opened(what)
        return open_recording(self._engine, what)

    def _site(self, port: str) -> Site:
        path, number, tree = self._path, self._call, self._engine.names.tree
        if number == BY_NAME:
            if path in tree.shared:
                return Site(path, port, BY_NAME)
            number = 0
        return Site(tree.aliases.get(path, path), port, number)

    @property
    def output(self) -> Any:
        """What the module returns: a proxy, or a nested proxy.

        Of an added module, which no forward calls: what it returned when it was last called by
        hand in this block.
        """
        recording, site = self._recording("output"), self._site(OUTPUT)
        by_hand = recording.last_by_hand(site) if recording.by_hand else None
        if by_hand is not None:
            return by_hand
        if self._engine.runner.added:
            self._check_added(site)
        return recording.read(site)

    @output.setter
    def output(self, value: Any) -> None:
        self._recording("output").replace(self._site(OUTPUT), value)

    def _check_added(self, site: Site) -> None:
        """The parts of an added module run inside it, out of reach of the forward's hooks."""
        name, _, below = site.path.partition(".")
        if name in self._engine.runner.added and below:
            raise NeverCalledError(
                site.spoken,
                str(here()),
                (),
                reason=f"{name} is called by hand, as a whole.  Call its parts by hand to see"
                f" their values: `f = model.{site.path}(h)`.",
            )

    def skip(self, value: Any) -> None:
        """Do not run this module: `value`, known by then and of its output's shape, goes on."""
        self._recording("skip").skip(self._site(OUTPUT), value)

    @property
    def calls(self) -> Calls:
        """The module's calls in one forward, by number."""
        return Calls(self)

    @property
    def ops(self) -> Any:
        """What the module's own forward calls of `mx.*` and `nn.*`, by name and number: sites like
        any other.  A part of the module that is called so comes first."""
        return self.__getattr__(OPS)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return call_module(self._engine, self._path, args, kwargs)

    # -- the tree -------------------------------------------------------------------------------

    @property
    def module(self) -> Any:
        """The module itself."""
        return self._itself()

    def _itself(self) -> Any:
        tree = self._engine.names.tree
        path = tree.aliases.get(self._path, self._path)
        return tree.containers[path] if path in tree.containers else tree.modules[path]

    @property
    def path(self) -> str:
        """The canonical dotted path."""
        return self._path

    @property
    def _name(self) -> str:
        return self._path or "model"

    def _at_call(self, number: int) -> ModuleHandle:
        return ModuleHandle(self._engine, self._path, self._opened, number)

    def _child(self, part: str) -> ModuleHandle | None:
        names = self._engine.names
        below = f"{self._path}.{part}" if self._path else part
        if names.exists(below) or below in names.tree.containers:
            return ModuleHandle(self._engine, below, self._opened)
        alias = names.alias(self._path, part)
        return None if alias is None else ModuleHandle(self._engine, alias, self._opened)

    def __getattr__(self, name: str) -> Any:
        if name in _SLOTS:  # of a handle that is being copied
            raise AttributeError(name)
        child = self._child(name)
        if child is not None:
            return child
        if name.startswith("__"):
            raise AttributeError(name)
        module = self.module
        if isinstance(module, nn.Module):  # copies: `handle.weight *= 2` is not the model's
            if _is_its_own(module, name):
                return self._handed(name, getattr(module, name))
            if name in module:
                return self._handed(name, module[name])
            found = inside(self, name)
            if found is not None:
                return found
        raise self._unknown(name, f".{name}" if name in _OF_VALUES else "")

    def _handed(self, name: str, value: Any) -> Any:
        """What a module has, with copies of its arrays."""
        if name in _OF_PARAMETERS and isinstance(value, MethodType):
            return lambda: same_data_in(value())
        value = same_data_in(value)
        recording = recording_on(self._engine.root) if isinstance(value, ARRAY) else None
        return value if recording is None else hand_out(value, recording, name, written(self))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("output", "input", "inputs"):
            object.__setattr__(self, name, value)
            return
        module = self.module
        if isinstance(module, nn.Module) and isinstance(module.get(name), ARRAY):
            raise WeightError(name, written(self), str(here()))
        if self._child(name) is not None:
            refuse_exchange(self, name)
        if isinstance(module, nn.Module) and not _is_its_own(module, name):
            if write_inside(self, name, value):
                return
        raise UnknownSiteError(name, ["output", "input", "inputs"], f"a write to {self._name}")

    def _unknown(self, name: str, of_value: str) -> UnknownSiteError:
        """`of_value`: what was asked of the module and may have been meant of its output."""
        advice = f"Write {written(self)}.output{of_value} for the value." if of_value else ""
        also = [*PORTS, "module", OPS, *ATTENTION, *(STREAM if is_layer(self._path) else ())]
        return UnknownSiteError(name, self._likely(name), self._name, also=also, advice=advice)

    @overload
    def __getitem__(self, key: slice) -> list[ModuleHandle]: ...

    @overload
    def __getitem__(self, key: int | str) -> ModuleHandle: ...

    def __getitem__(self, key: Any) -> Any:
        if type(key) is int:  # most often, and then a number of one in a list
            engine = self._engine
            tree = engine.names.tree
            listed = tree.containers.get(self._path)
            if type(listed) is list and 0 <= key < len(listed):
                path = f"{self._path}.{key}"
                if path in tree.modules:
                    return ModuleHandle(engine, path, self._opened)
        if isinstance(key, slice):
            if key.step == 0:
                raise StepError(self._name, str(here()))
            return [self[i] for i in range(*key.indices(len(self)))]
        if isinstance(key, int) and not self._is_list():
            key = str(key) if self._child(str(key)) else key
        if not isinstance(key, (int, str)) and self._is_list():
            advice = f"Write {written(self)}[0] for one, {written(self)}[0:2] for several."
            raise UnknownSiteError(str(key), (), self._name, advice=advice, near=[])
        if not isinstance(key, (int, str)) or (isinstance(key, int) and not self._is_list()):
            raise self._unknown(str(key), f"[{str(key).strip('()')}]")
        if isinstance(key, int):
            size = len(self)
            if self._engine.names.tree.stage and (key < 0 or self._child(str(key)) is None):
                raise UnknownSiteError(
                    str(key), (), self._name, advice=self._engine.names.tree.stage, near=[]
                )
            if not -size <= key < size:
                raise NoLayerError(self._engine.names.kind_of(self._path), key, size, str(here()))
            key %= size
        child = self._child(str(key))
        if child is None:
            raise UnknownSiteError(str(key), self._children(), self._name)
        return child

    __setitem__ = set_item

    def __delattr__(self, name: str) -> None:
        refuse_exchange(self, name)

    def __len__(self) -> int:
        module = self._itself()
        if isinstance(module, nn.Module) and "layers" in module:  # nn.Sequential
            return len(module["layers"])
        return len(module)

    def __iter__(self) -> Iterator[ModuleHandle]:
        if not self._is_list():
            raise no_loop(written(self))
        return (self[i] for i in range(len(self)))

    def __contains__(self, key: Any) -> bool:
        """Whether a child goes by a name, or is named by a handle."""
        if isinstance(key, str):
            return self._child(key) is not None
        return any(self._child(part) == key for part in self._children())

    def __eq__(self, other: object) -> bool:
        return type(other) is ModuleHandle and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, Site]:
        """What is named: equal for two handles on one call of one module."""
        return id(self._engine.root), self._site(OUTPUT)

    def _is_list(self) -> bool:
        """Whether the module is several, by number."""
        module = self._itself()
        return not isinstance(module, nn.Module) or "layers" in module

    def _children(self) -> list[str]:
        return children_of(self._engine, self._path)

    def _likely(self, name: str) -> list[str]:
        """The children, each once: by its name or its alias, whichever is more like `name`."""
        aliases = {self._engine.names.alias(self._path, part): part for part in self._aliases()}
        found = []
        for child in self._children():
            alias = aliases.get(f"{self._path}.{child}", child)
            likeness = {own: SequenceMatcher(None, name, own).ratio() for own in (child, alias)}
            found.append(max(likeness, key=likeness.__getitem__))
        return found

    def _aliases(self) -> list[str]:
        return [part for part in ALIASES if self._engine.names.alias(self._path, part)]

    def __dir__(self) -> list[str]:
        module = self._itself()
        own = [k for k in module if isinstance(k, str)] if isinstance(module, nn.Module) else []
        own += STREAM if is_layer(self._path) else ()
        return sorted({*PORTS, "module", "path", *self._children(), *self._aliases(), *own})

    def _ipython_key_completions_(self) -> list[str]:
        return self._children()

    def __copy__(self) -> ModuleHandle:
        return self

    def __reduce__(self) -> Any:
        """A copy names the module in a copy of the model, and belongs to no block."""
        return ModuleHandle, (self._engine, self._path, None, self._call)

    def __str__(self) -> str:
        """The name that every call takes in place of the handle."""
        return self._path + (f".calls[{self._call}]" if self._call > 0 else "") or MODEL_OUTPUT

    def __repr__(self) -> str:
        return f"<{self._name}: {type(self.module).__name__}>"


def _is_its_own(module: nn.Module, name: str) -> bool:
    """Whether a module has an attribute that is not only there because modules are dicts: `clear`
    and `pop` would empty it of its weights."""
    owner = next((kind for kind in type(module).__mro__ if name in vars(kind)), None)
    return owner is not dict and hasattr(module, name)


def layers_of(engine: Engine, opened: Opened | None = None) -> ModuleHandle:
    """The layers of a model.  Raises: LayersError where it has none."""
    names = refreshed(engine).names
    if names.container is None:
        raise names.no_layers()
    return ModuleHandle(engine, names.container, opened)


def handle_on(engine: Engine, named: NamedSite) -> Any:
    """The handle on a site's module, or on the site inside a module."""
    site = named.site
    if named.stream:
        return StreamHandle(ModuleHandle(engine, owner_of(site.path)), named.stream)
    within = None if engine.names.exists(site.path) or not site.path else parted(site.path)
    if within is None:
        return ModuleHandle(engine, site.path, call=site.call)
    return InsideHandle(ModuleHandle(engine, within[0]), within[1], site.call)


def children_of(engine: Engine, path: str) -> list[str]:
    """The names that may follow a module's path."""
    names = engine.names
    prefix = f"{path}." if path else ""
    paths = [*names.known(), *names.tree.containers]
    parts = [p[len(prefix) :].split(".")[0] for p in paths if p.startswith(prefix)]
    return list(dict.fromkeys(part for part in parts if part))
