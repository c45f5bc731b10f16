"""Recorded values: used too early, too late, elsewhere, or where no recording sees them."""

from __future__ import annotations

from collections.abc import Iterable

from mlxgraph.errors.base import MLXGraphError, close_matches, suggest
from mlxgraph.errors.shapes import BoundsError


class OutsideTraceError(MLXGraphError, RuntimeError):
    """A site used where no trace of its model is open."""

    def __init__(self, what: str, advice: str = ""):
        super().__init__(
            f"{what} is only known while the model runs.\n"
            "  Write `with model.trace(inputs) as t:` and use it inside that block."
            f"{advice and chr(10) + '  ' + advice}"
        )


class NotSavedError(MLXGraphError, RuntimeError):
    """A proxy used after its block, without having been saved."""

    def __init__(self, what: str, where: str):
        super().__init__(
            f"{what} was not saved, and its trace is over.\n  recorded at {where}\n"
            "  Write `value = value.save()` inside the block, and use `value` after it."
        )


class UnboundParamError(NotSavedError):
    """A value that waits for params that were never given."""

    def __init__(self, names: Iterable[str], of_generation: bool = False):
        shown = ", ".join(names)
        first = shown.split(", ")[0]
        what = "generation" if of_generation else "trace"
        write = (
            f"model.generate(prompt, params={{{first!r}: ...}})."
            if of_generation
            else f"model.trace(x, params={{{first!r}: ...}}), or run the graph:"
            f" model.run(t.graph, x, {first}=...).  Of an edit that stays:"
            f" model.edit(graph.bind({first}=...))."
        )
        MLXGraphError.__init__(
            self,
            f"this value needs a value for the param {shown}, so its {what} did not run.\n"
            f"  Write {write}",
        )


class LookError(MLXGraphError, RuntimeError):
    """A value that cannot be looked at, inside the block or when it is over."""


class ModelChangedError(MLXGraphError, RuntimeError):
    """Modules exchanged or taken out of a model while a block on it is open."""

    def __init__(self, path: str):
        super().__init__(
            f"{path or 'the model'} is no part of the model any more: modules were exchanged while"
            " a block on the model was open.\n"
            "  Exchange them before the block or after it (nn.quantize, `layers[1] = ...`)."
        )


class StateError(MLXGraphError, RuntimeError):
    """A forward that moves on what cannot be copied, so that its trace would leave a mark."""

    def __init__(self, kind: str):
        super().__init__(
            f"the model moves a {kind} on while it runs, and no copy of one can be made: the trace"
            " would leave the model another than it was.\n"
            "  Let the model count, or keep a list and a position in it; these are copied."
        )


class EscapedError(MLXGraphError, TypeError):
    """A proxy went through code that the recording cannot see."""

    def __init__(self, where: str, advice: str = "", what: str = ""):
        what = what or (
            "a recorded value went through a function that the recording cannot see (imported by"
            " name before the trace, or transformed by MLX), and came out as an array that holds"
            " nothing."
        )
        advice = advice or (
            "Write the function with its module, `mx.softmax(h)` or `nn.relu(h)`, in place of a"
            " name that was imported earlier; or `mg.apply(fn, h)` to run any function as it is."
            " A module whose own code does so is called as `model.name(h)`, after"
            " `model.name = module`."
        )
        super().__init__(f"{what}\n  used at {where}\n  {advice}")


class PlainArrayError(MLXGraphError, TypeError):
    """A recorded value where a plain array or numpy needs numbers."""

    def __init__(self, what: str, where: str, advice: str):
        super().__init__(f"{what}, and nothing has run yet.\n  at {where}\n  {advice}")


class PicklingError(MLXGraphError, TypeError, RuntimeError):
    """Something that cannot be written down for another process."""

    def __init__(self, what: str, why: str, advice: str, where: str):
        super().__init__(f"{what} cannot be pickled: {why}.\n  at {where}\n  {advice}")


class ForeignProxyError(MLXGraphError, ValueError):
    """A proxy of one open trace used in another."""

    def __init__(self, what: str, where: str):
        super().__init__(
            f"{what} belongs to another trace that is still open: its value is not known yet.\n"
            f"  at {where}\n"
            "  Save it and close its block first, or use `t.invoke` blocks of one trace."
        )


class UnknownEntryError(MLXGraphError, AttributeError, TypeError):
    """An attribute, or an operation, that a nested value does not have; its parts may."""

    def __init__(
        self,
        what: str,
        shown: str,
        name: str,
        known: list[str],
        where: str,
        done: str,
        part: str = "[0]",
    ):
        """`part`: how a part of it is written that may have what it has not."""
        fault = f"cannot {done}" if done else f"has no {name!r}"
        if part == f"[{name!r}]":
            fault = f"has {name!r} as an entry"
        if known:
            advice = f"It has {', '.join(known)}"
        elif done or part == f"[{name!r}]":
            advice = f"Take a part of it: `{what}{part}`"
        else:
            advice = f"Take a part of it first: `{part}.{name}`"
        super().__init__(
            f"{what} is {shown} and {fault}.\n  at {where}\n  {advice}."
            f"{suggest(close_matches(name, known))}"
        )


class NoValueError(MLXGraphError, TypeError):
    """A module where a value is needed, such as its output."""

    def __init__(self, module: str, where: str, shown: str, instead: str = ""):
        """`shown`: what was written, with `{}` for the module; `instead`: what to write, if that is
        not the same of its output."""
        instead = instead or f"`{shown.format(module + '.output')}`"
        super().__init__(
            f"{module} is a module, and no value: `{shown.format(module)}` needs one.\n"
            f"  at {where}\n  Write {instead}."
        )


class NoEntryError(BoundsError, KeyError, TypeError):
    """An entry that a nested value does not have, by its key or its number."""

    def __init__(self, what: str, shown: str, key: object, there_is: str, meant: str, where: str):
        """`meant`: how what was meant is written, as far as that can be told."""
        advice = f"It has the entries {there_is}" if there_is else "It has no entries"
        if meant:
            advice += f"; write `{what}{meant}`"
        MLXGraphError.__init__(
            self, f"{what} is {shown} and has no entry {key!r}.\n  at {where}\n  {advice}."
        )


class StaleHandleError(MLXGraphError, ValueError):
    """A write through a handle whose site's value was replaced in the meantime."""

    def __init__(self, site: str, where: str, replaced: str):
        super().__init__(
            f"cannot write through this handle of {site}: the value was replaced at {replaced}.\n"
            f"  at {where}\n"
            f"  The handle still reads the old value. Read {site} again, and write into that."
        )


class GradientError(MLXGraphError, ValueError):
    """A gradient that has no meaning where it was asked for."""


class TokenGradientError(MLXGraphError, TypeError):
    """A gradient with respect to token ids."""

    def __init__(self) -> None:
        super().__init__(
            "token ids are integers: there is no gradient with respect to them.\n"
            "  Differentiate with respect to the embedding's output instead: inside the trace"
            " write `model.model.embed_tokens.output = x`, with x a float array of its shape; or"
            " trace a model that takes float inputs."
        )
