"""Exchanged functions: what MLX's names give while somebody wants to see who calls them.

Two kinds of people do.  While a block is open its recording is to notice proxies, and while a
watched forward runs (`mlx_facts.watching`) its calls are to be noticed; with the last of them MLX's
own come back.  Each has a table of functions for every place where a name is looked up:

    the modules of `mlx.core` and `mlx.nn`    by attribute: they wear another class
    `mlx.nn`'s activations and losses          by bare name, in their functions' globals
    cells of closures, calls of classes        where `mlx.nn` keeps functions itself
    `a @ b`                                    which is `mx.matmul`, of watched forwards alone
    modules of a model's own code              functions of MLX that were imported by name

In: tables.  Never: knows what the functions do.
"""

from __future__ import annotations

import itertools
import operator
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.mlx_facts.functions import cells_of, is_compiled, is_native, is_of_nn
from mlxgraph.mlx_facts.namespaces import Exchanged, class_with
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.turns import Turns

# Not array arithmetic: devices, memory, files, and the transformations, which take functions.
_LEFT_ALONE = frozenset(
    """default_device set_default_device is_available device_count device_info default_stream
    set_default_stream new_stream new_thread_unsafe_stream new_thread_local_stream clear_streams
    stream synchronize get_active_memory get_array_buffer_size get_peak_memory reset_peak_memory
    get_cache_memory set_memory_limit get_memory_limit set_cache_limit set_wired_limit clear_cache
    load disable_compile enable_compile
    export_function import_function exporter set_printoptions get_printoptions printoptions
    metal_kernel cuda_kernel precompiled_cuda_kernel __getattr__ seed key from_dlpack""".split()
)
_OF_MODELS = frozenset("quantize average_gradients fully_shard value_and_grad".split())  # in nn
FILES = frozenset("save savez savez_compressed save_safetensors save_gguf export_to_dot".split())
TRANSFORM = frozenset("grad value_and_grad vjp jvp vmap compile checkpoint".split())
EVALUATE = frozenset({"eval", "async_eval"})

PLACES: list[tuple[ModuleType, str]] = [
    (mx, "mx"),
    (mx.linalg, "mx.linalg"),
    (mx.fast, "mx.fast"),
    (mx.fft, "mx.fft"),
    (mx.random, "mx.random"),
    (nn.layers.activations, "nn"),
    (nn.losses, "nn.losses"),
    (nn, "nn"),
    (nn.layers, "nn"),
]
_BY_BARE_NAME = (nn.layers.activations, nn.losses)
Table = Mapping[Any, Any]


def functions_in(namespace: ModuleType, prefix: str) -> dict[str, Callable[..., Any]]:
    """The functions of a namespace that compute: native ones, and those of `nn` in Python."""
    of_nn = prefix.startswith("nn")
    left = _LEFT_ALONE | _OF_MODELS if of_nn else _LEFT_ALONE
    found = {}
    for name, value in vars(namespace).items():
        if name in left or name.startswith("_"):
            continue
        if getattr(value, "__module__", "").endswith(".quantized"):
            continue
        if is_native(value) or is_compiled(value) or (of_nn and is_of_nn(value)):
            found[name] = value
    return found


blocks: dict[int, Any] = {}  # every open block of the process
watches: dict[int, Any] = {}  # every watched forward


class _Place(NamedTuple):
    """A module, what its names hold, and what they are to give."""

    module: ModuleType
    own: Table
    recording: Table
    watching: Table


class _Call(NamedTuple):
    """A class, its call, and the one that it has while a block is open."""

    kind: type
    own: Any
    recording: Any


_CELLS = [(cell, cell.cell_contents) for cell in cells_of(nn.layers.activations)]
_places: list[_Place] = []
_calls: list[_Call] = []
_more: list[tuple[dict, Table, Table]] = []  # names in models' modules: their own, and watching
# What stands now: the places that go by bare names, every place's setter, and what each setter is
# given: where nobody watches, a block is open or none, and where somebody does.
_exchanged: list[Exchanged] = []
_given: list[tuple] = []
_setters: list[Callable[[Any], Any]] = []
_states: list[list[list[Any]]] = [[[], []], [[], []]]


def set_recording(tables: Iterable[tuple[ModuleType, Table]], kinds: Iterable[Any]) -> None:
    """What names give while a block is open, by place; and calls of classes: `(class, call)`."""
    for module, names in tables:
        own = {name: vars(module)[name] for name in names}
        _places.append(_Place(module, own, names, names))
    _calls.extend(_Call(kind, vars(kind)["__call__"], call) for kind, call in kinds)
    _arrange()


def set_watching(made: Callable[[Any, Any], Any]) -> None:
    """What names give while a forward is watched: `made(MLX's own, what a block would have)`."""
    for k, (module, own, recording, _) in enumerate(_places):
        watching = {name: made(own[name], recording[name]) for name in own if name != "array"}
        _places[k] = _Place(module, own, recording, watching)
    _arrange()


def exchange_too(found: Iterable[tuple[dict[Any, Any], Table]]) -> None:
    """Exchange entries of more dicts, such as modules' names, while a forward is watched."""
    for entries, names in found:
        _more.append((entries, {name: entries[name] for name in names}, names))
    _arrange()


def _arrange() -> None:
    """Every place's setter and what each is given: made anew, and put in place of those before."""
    setters: list[Any] = []
    given: list[tuple[Any, Any, Any, Any]] = []
    exchanged = [Exchanged(held, own, own, names, names) for held, own, names in _more]
    by_own: dict[int, tuple[Any, Any]] = {}
    for module, own, ours, watched in _places:
        if module in _BY_BARE_NAME:
            exchanged.append(Exchanged(vars(module), own, ours, watched, watched))
            by_own |= {id(own[name]): (ours[name], watched[name]) for name in own}
            continue
        both = {**watched, "array": ours["array"]} if "array" in ours else watched
        worn = [class_with(module, own, names) for names in (ours, watched, both)]
        setters.append(partial(setattr, module, "__class__"))
        given.append((ModuleType, *worn))  # type: ignore[arg-type]
    for cell, held in _CELLS:
        if id(held) in by_own:
            ours, watched = by_own[id(held)]
            setters.append(partial(setattr, cell, "cell_contents"))
            given.append((held, ours, watched, watched))
    for kind, call, ours in _calls:
        setters.append(partial(setattr, kind, "__call__"))
        given.append((call, ours, call, ours))

    def put() -> None:
        for one in exchanged:
            one.respect_others(2 * bool(watches) + bool(blocks))
        _give(exchanged, setters, given)
        settle()

    _turns.alone(put)


def _give(exchanged: list[Exchanged], setters: list[Any], given: list[tuple]) -> None:
    global _exchanged, _given, _setters, _states
    named = [partial(dict.update, one.names) for one in exchanged]
    states = [[of[k] for of in given] + [one.tables[k] for one in exchanged] for k in range(4)]
    _exchanged, _given = exchanged, given
    _setters, _states = [*setters, *named], [states[:2], states[2:]]


def settle() -> None:
    """MLX's own functions stand in their places while nobody wants others, and else what is wanted.

    One call without any Python in it: no interrupt and no other thread comes in between, and who
    wants what is asked on the way.
    """
    watched = map(operator.truth, itertools.repeat(watches, 1))
    is_open = map(operator.truth, itertools.repeat(blocks, 1))
    of_watch = map(operator.getitem, itertools.repeat(_states, 1), watched)
    wanted = map(operator.getitem, of_watch, is_open)
    put = map(map, itertools.repeat(operator.call), itertools.repeat(_setters), wanted)
    deque(itertools.chain.from_iterable(put), 0)


def respect_others() -> None:
    """Leave alone what somebody else has put under a name, and see it when it was put back."""
    state = 2 * bool(watches) + bool(blocks)
    changed = False
    for one in _exchanged:
        changed = one.respect_others(state) or changed
    if changed:
        _give(_exchanged, _setters[: len(_given)], _given)


# Between who is noted to want something and the names that follow, another thread would take what
# stands there for somebody else's.
_turns = Turns()
_matmul: list[Any] = [None, None]  # `array @ array`, as it is and watched


def set_matmul(watched: Callable[[Any], Any]) -> None:
    """What `a @ b` of plain arrays is while a forward is watched.

    Set on the class apart from the rest: all that Python keeps about arrays goes with it, which
    nobody is to pay for who only opens a block.
    """
    own = vars(ARRAY)["__matmul__"]
    _matmul[:] = own, watched(own)


def _settle_matmul() -> None:
    watched = map(operator.truth, itertools.repeat(watches, 1))
    deque(map(_SET_MATMUL, map(operator.getitem, itertools.repeat(_matmul, 1), watched)), 0)


_SET_MATMUL = partial(setattr, ARRAY, "__matmul__")


def want(of: dict[int, Any], key: int, who: Any) -> None:
    """From now on somebody wants the names exchanged.  Args: of: `blocks` or `watches`."""
    _turns.alone(partial(_want, of, key, who))


def want_no_more(of: dict[int, Any], key: int) -> None:
    """From now on somebody does not any more."""
    _turns.alone(partial(_want_no_more, of, key))


def _want(of: dict[int, Any], key: int, who: Any) -> None:
    respect_others()
    of[key] = who
    _settled(of)


def _want_no_more(of: dict[int, Any], key: int) -> None:
    if key in of:
        respect_others()
        of.pop(key, None)
    _settled(of)


def _settled(of: dict[int, Any]) -> None:
    settle()
    if of is watches:
        _settle_matmul()
