"""Compares what a page says about names and signatures with the code.

In: the text of a page.  Out: what is wrong with it, a line each.
Never: believes a name alone; a default that differs is as wrong as a name that is not there.

A page promises a name where it stands as code in a heading or in the first cell of a table row,
behind one of the words in `OWNERS`:

    ### `model.run(graph, *inputs, compile="auto")`     a signature, compared whole
    | `trace.lengths` | ... |                           an attribute
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import mlx.core as mx

import mlxgraph as mg
from mlxgraph import interventions, plot
from mlxgraph.analysis.benchmark_table import Benchmark
from mlxgraph.analysis.lens import Lens
from mlxgraph.analysis.patching import Recovery
from mlxgraph.graph.diff import Diff
from mlxgraph.model.compiled_pass import CompiledPass, Result
from mlxgraph.model.traced_function import TracedFunction
from mlxgraph.record.proxy import Proxy
from mlxgraph.trace.generation import Generation
from mlxgraph.trace.inside_handle import InsideHandle
from mlxgraph.trace.module_handle import ModuleHandle
from mlxgraph.trace.prompts import Prompts

OWNERS: dict[str, Any] = {  # the word that stands for each on the page
    "mg": mg,
    "iv": interventions,
    "model": mg.InterpretableModel,
    "trace": mg.Trace,
    "generation": Generation,
    "prompts": Prompts,
    "module": ModuleHandle,
    "op": InsideHandle,
    "plot": plot,
    "h": Proxy,
    "g": mg.Graph,
    "node": mg.Node,
    "fast": CompiledPass,
    "result": Result,
    "steered": TracedFunction,
    "composer": interventions.InterventionComposer,
    "cache": mg.ActivationCache,
    "lens": Lens,
    "recovery": Recovery,
    "changes": Diff,
    "table": Benchmark,
    "e": mg.Effects,
    "store": mg.ActivationStore,
}
MADE_BY_OTHERS = {  # classes on the page that no user calls
    "mg.Graph": "a trace, mg.edit and mg.read make them",
    "mg.Trace": "model.trace",
    "mg.ActivationCache": "mg.collect_activations",
    "mg.MLXGraphError": "the root of what is raised",
    "mg.interventions": "a module",
    "iv.InterventionComposer": "iv.compose",
}
FOR_OTHER_ROOMS = {  # public names that other rooms ask for, and no user
    "trace.recorded": "a block's graph without a run, for compiled passes",
    "fast.resolve": "the graph that a run would see, for explain",
    "g.key": "what equality compares",
}
SIGNATURE = re.compile(r"(\w+)(?:\.(\w+))?\((.*)\)", re.DOTALL)
ATTRIBUTE = re.compile(r"(\w+)\.(\w+)")
Parameter = tuple[str, str, str]  # its name, its kind, its default as text


def problems(page: str) -> list[str]:
    """What the page says and the code does not, and the other way round."""
    promises = list(promised(page))
    said = {f"{owner}.{name}" for owner, name, _ in promises}
    found = [fault for promise in promises if (fault := _fault(*promise))]
    for owner, name, value in public():
        full = f"{owner}.{name}"
        if full in FOR_OTHER_ROOMS:
            continue
        if full not in said:
            found.append(f"{full} is not on the page")
        elif callable(value) and full not in MADE_BY_OTHERS:
            if not any((o, n) == (owner, name) and args is not None for o, n, args in promises):
                found.append(f"{full} is on the page without its signature")
    return found


def promised(page: str) -> Iterator[tuple[str, str, str | None]]:
    """`(owner, name, arguments)` of each promise; without arguments it is an attribute."""
    for code in _spans(page):
        code = re.sub(r"^mg\.Graph\.", "g.", code)  # a class method, called on the class
        code = re.sub(r"^mg\.Effects\.", "e.", code)
        if (call := SIGNATURE.fullmatch(code)) and call[1] in OWNERS:
            yield call[1], call[2] or "__call__", call[3]
        elif (attribute := ATTRIBUTE.fullmatch(code)) and attribute[1] in OWNERS:
            yield attribute[1], attribute[2], None


def _spans(page: str) -> Iterator[str]:
    """Code in headings and in the first cells of tables."""
    for line in re.sub(r"```.*?```", "", page, flags=re.DOTALL).splitlines():
        if line.startswith("#"):
            yield from re.findall(r"`([^`]+)`", line)
        elif line.startswith("|"):
            yield from re.findall(r"`([^`]+)`", line.split("|")[1])


def _fault(owner: str, name: str, arguments: str | None) -> str:
    """What is wrong with one promise; empty if nothing is."""
    holder = OWNERS[owner]
    said = f"{owner}.{name}" if name != "__call__" else owner
    if not exists(owner, name):
        return f"{said}: there is no such name"
    if arguments is None:
        return ""
    try:
        written = _written(arguments)
    except (SyntaxError, ValueError):
        return f"{said}({arguments}) is no signature"
    real = _real(holder, name)
    if written == real:
        return ""
    return f"{said}({arguments}): the code has ({', '.join(map(_shown, real))})"


def _shown(parameter: Parameter) -> str:
    name, kind, default = parameter
    star = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(kind, "")
    by_name = "by name: " if kind == "KEYWORD_ONLY" else ""
    return f"{by_name}{star}{name}" + (f"={default}" if default else "")


def _written(arguments: str) -> list[Parameter]:
    """The parameters that a page writes, read as Python reads a definition."""
    (definition,) = ast.parse(f"def f({arguments}): ...").body
    assert isinstance(definition, ast.FunctionDef)
    given = definition.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + [*given.defaults]
    found = [
        (one.arg, "POSITIONAL_OR_KEYWORD", _default(default))
        for one, default in zip(plain, defaults, strict=True)
    ]
    if given.vararg:
        found.append((given.vararg.arg, "VAR_POSITIONAL", ""))
    for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found.append((one.arg, "KEYWORD_ONLY", _default(default)))
    if given.kwarg:
        found.append((given.kwarg.arg, "VAR_KEYWORD", ""))
    return found


def _default(value: ast.expr | None) -> str:
    return "" if value is None else repr(ast.literal_eval(value))


def _real(holder: Any, name: str) -> list[Parameter]:
    """The parameters that the code takes, without `self`."""
    held = inspect.getattr_static(holder, name)
    is_bound = isinstance(holder, type) and not isinstance(held, staticmethod)
    function = getattr(held, "__func__", held)
    parameters = list(inspect.signature(function).parameters.values())[is_bound:]
    return [
        (
            one.name,
            str(one.kind.name).replace("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD"),
            "" if one.default is one.empty else repr(one.default),
        )
        for one in parameters
    ]


# -- what there is -----------------------------------------------------------------------------


def public() -> Iterator[tuple[str, str, Any]]:
    """`(owner, name, value)` of everything that a user may name."""
    for word, holder in OWNERS.items():
        for name in sorted(_names(holder)):
            yield word, name, getattr(holder, name, None)


def exists(owner: str, name: str) -> bool:
    """Whether the code has a name."""
    return name in _names(OWNERS[owner]) or hasattr(OWNERS[owner], name)


def _names(holder: Any) -> set[str]:
    """The public names of a module or class of ours, attributes that it sets on itself included."""
    if holder is mg or holder is plot:
        return set(holder.__all__)
    if holder is interventions:
        own = [(n, v) for n, v in vars(holder).items() if inspect.isfunction(v) or type(v) is type]
        return {n for n, v in own if v.__module__ == holder.__name__ and not n.startswith("_")}
    if holder is Proxy:  # what it has beyond an array
        return {n for n in dir(holder) if not n.startswith("_")} - set(dir(mx.array))
    if holder is Generation:  # what it has beyond a trace
        return {n for n in vars(holder) if not n.startswith("_")}
    found: set[str] = set()
    for cls in holder.__mro__:
        is_said_once = cls is mg.Effects is not holder  # what all results have
        if cls.__module__.startswith("mlxgraph") and not is_said_once:
            found |= {*vars(cls), *vars(cls).get("__dataclass_fields__", ()), *_set_on_itself(cls)}
    return {name for name in found if not name.startswith("_")} | (
        {"__call__"} if "__call__" in vars(holder) else set()
    )


def _set_on_itself(cls: type) -> set[str]:
    """The names that `__init__` sets."""
    if "__init__" not in vars(cls) or not inspect.isfunction(vars(cls)["__init__"]):
        return set()
    try:
        source = textwrap.dedent(inspect.getsource(vars(cls)["__init__"]))
    except OSError:  # a NamedTuple's is made of text
        return set()
    return {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
