"""Graphs as values: the names in them, their params and files, and what cannot be made of them."""

from __future__ import annotations

from collections.abc import Iterable

from mlxgraph.errors.base import MLXGraphError, close_matches, suggest


class UnknownNameError(MLXGraphError, KeyError):
    """A save, param, rewrite, metric or kept activation that does not exist."""

    def __init__(self, what: str, name: str, known: Iterable[str], advice: str = ""):
        known = list(known)
        hint = suggest(close_matches(name, known)) or (
            f"\n  There is: {', '.join(known)}." if known else "\n  There is none."
        )
        super().__init__(f"no {what} named {name!r}.{hint}{advice and chr(10) + '  ' + advice}")


class MissingParamError(MLXGraphError, KeyError):
    """A run without a value for one of the graph's params."""

    def __init__(self, name: str):
        super().__init__(
            f"the graph needs a value for its param {name!r}.\n  Write fast(x, {name}=...), or"
            f" model.run(g, x, {name}=...); g.bind({name}=...) fixes it."
        )


class ParamError(MLXGraphError, ValueError):
    """A value that does not fit the param it is given for."""

    def __init__(self, name: str, shape: tuple | None, given: str):
        wanted = "a number" if shape is None else f"shape {tuple(shape)}"
        super().__init__(
            f"param {name!r} takes {wanted}, and was given {given}.\n"
            f"  Give it {wanted}, or declare mg.param({name!r}, shape=...) with another shape."
        )


class NotAGraphError(MLXGraphError, TypeError):
    """Something else where a graph is needed."""

    def __init__(self, given: object, advice: str = ""):
        super().__init__(
            f"a graph is needed, not a {type(given).__name__}.\n  "
            + (
                advice
                or "Give the graph of a trace (`t.graph`, or the finished trace itself), or what"
                " mg.edit and mg.read return."
            )
        )


class NotEnteredError(NotAGraphError, AttributeError):
    """A block of edits that is taken for the edited model."""

    def __init__(self) -> None:
        MLXGraphError.__init__(
            self,
            "model.edit was given no graph, so this is a block that records edits, and no model.\n"
            "  Write model.edit(mg.edit('layers.2', iv.zero_out)) for a model with that edit, or"
            " `with model.edit() as edited:` and use `edited`.",
        )


class MergeError(MLXGraphError, ValueError):
    """Two graphs that cannot stand side by side."""


class OpaqueError(MLXGraphError, TypeError):
    """A graph holds a Python function that this operation cannot see into."""


class GraphFileError(MLXGraphError, ValueError):
    """A file that is no graph this version can read."""


class MalformedGraphError(MLXGraphError, ValueError):
    """A graph that breaks a rule of what a well-formed graph is."""


class RewriteError(MLXGraphError, RuntimeError):
    """Rewrite rules that never come to rest, or that return what is no node."""


class CompileError(MLXGraphError, ValueError):
    """A pass that was asked to compile and cannot be."""
