"""A model as a page that a person can read: `print(model)`.

One line a module: its name as every call takes it, its class, how many parameters it holds.
Layers that are alike share their lines, under a pattern that means them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlxgraph.graph.site import MODEL_OUTPUT
from mlxgraph.run.engine import Engine
from mlxgraph.run.tree import ModuleTree


def tree_text(engine: Engine) -> str:
    """The module tree, its sites, its parameters, and the edits that stay."""
    tree = engine.runner.refresh()
    sizes = _sizes(tree)
    rows = list(_rows(tree, sizes))
    wide = max((len(name) for name, _, _ in rows), default=0)
    kinds = max((len(kind) for _, kind, _ in rows), default=0)
    lines = [f"InterpretableModel({type(engine.root).__name__}): {sizes['']:,} parameters"]
    lines += [f"  {name:<{wide}}  {kind:<{kinds}}  {size}".rstrip() for name, kind, size in rows]
    lines.append(f"  {MODEL_OUTPUT}")
    lines.append("sites: the .output, .input and .inputs of every module, and what is in its .ops")
    lines.append(f"edits: {engine.edits}" if engine.is_edited else "edits: none")
    return "\n".join(lines)


def _rows(tree: ModuleTree, sizes: dict[str, int]) -> Iterator[tuple[str, str, str]]:
    """Name or pattern, class and parameters of each module; of modules that are alike, once."""
    shown: dict[str, str] = {}  # each path that stands for others, and their pattern
    hidden: set[str] = set()
    for container, held in tree.containers.items():
        if isinstance(held, (list, tuple)):
            for first, last in _alike(tree, container, len(held)):
                shown[f"{container}.{first}"] = f"[{first}-{last}]"
                hidden.update(f"{container}.{k}" for k in range(first + 1, last + 1))
    for path, module in tree.modules.items():
        if not path or any(_inside(path, other) for other in hidden):
            continue
        size = f"{sizes[path]:,}" if sizes[path] else ""
        yield _named(path, shown), type(module).__name__, size


def _named(path: str, shown: dict[str, str]) -> str:
    """A path with the numbers of modules that are alike as a range."""
    parts = path.split(".")
    heads = [".".join(parts[: k + 1]) for k in range(len(parts))]
    return ".".join(shown.get(head, part) for head, part in zip(heads, parts, strict=True))


def _alike(tree: ModuleTree, container: str, count: int) -> Iterator[tuple[int, int]]:
    """Runs of modules in a list that are built alike: the first and the last of each run."""
    forms = [_form(tree, f"{container}.{k}") for k in range(count)]
    first = 0
    for k in range(1, count + 1):
        if k == count or forms[k] != forms[first]:
            if k - first > 1:
                yield first, k - 1
            first = k


def _form(tree: ModuleTree, path: str) -> list[tuple[str, type]]:
    below = [(p, m) for p, m in tree.modules.items() if _inside(p, path)]
    return [(p[len(path) :], type(m)) for p, m in below]


def _inside(path: str, other: str) -> bool:
    return path == other or path.startswith(other + ".")


def _sizes(tree: ModuleTree) -> dict[str, int]:
    """How many parameters each module holds, those of the modules below it included."""
    sizes = dict.fromkeys(tree.modules, 0)
    for name, array in zip(tree.weight_names, tree.weights(), strict=True):
        owner = name.rpartition(".")[0]
        while owner not in tree.modules:
            owner = owner.rpartition(".")[0]
        count = _count(tree.modules[owner], name.rpartition(".")[2], array)
        while True:
            sizes[owner] = sizes.get(owner, 0) + count
            if not owner:
                break
            owner = owner.rpartition(".")[0]
    return sizes


def _count(module: Any, key: str, array: Any) -> int:
    """The parameters in an array: a quantised weight holds several in each of its numbers."""
    bits = getattr(module, "bits", None)
    if bits is None or "scales" not in module:
        return array.size
    return array.size * 32 // bits if key == "weight" else 0 if key != "bias" else array.size
