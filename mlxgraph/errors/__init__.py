"""Every deliberate exception of the library, as one tree.

Each says what is wrong, where it was written, and what to write instead, and inherits the
builtin that a caller would expect.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MLXGraphError(Exception):
    """The root: catch this to catch everything that mlxgraph raises on purpose."""

    def __str__(self) -> str:  # KeyError would show the message quoted
        return str(self.args[0]) if self.args else ""


def close_matches(name: str, known: Iterable[str], most: int = 5) -> list[str]:
    """The known names that look most like `name`, best first."""
    names = list(dict.fromkeys(known))
    found = difflib.get_close_matches(name, names, n=most, cutoff=0.6)
    tail = name.rsplit(".", 1)[-1]
    if not found:
        tails = list(dict.fromkeys(n.rsplit(".", 1)[-1] for n in names))
        tail = next(iter(difflib.get_close_matches(tail, tails, n=1, cutoff=0.6)), tail)
    return (found + [n for n in names if n.endswith("." + tail) and n not in found])[:most]


def _suggest(matches: list[str]) -> str:
    return f"\n  Did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""


_LATER = "{} is not part of this version."
ELSEWHERE = {  # what people know from other libraries, and what it is here
    "invoke": "Several prompts go into `with model.trace() as t:`, opened without inputs.",
    "scan": "Shapes are known inside every block: h.shape runs nothing.",
    "session": "Values that are saved flow from one trace into the next; no session is needed.",
    "next": "Write `module.calls[k]` for the k-th call in one forward.",
    "source": "Only modules' inputs and outputs are sites.",
    "run_with_cache": "Write `with model.trace(x) as t:` and look values up in t.activations.",
    "run_with_hooks": "Write model.trace(x, interventions={name: function}).",
    "generate": _LATER.format("Generation under edits"),
    "sweep": _LATER.format("A batched sweep") + " Run the graphs in a loop.",
    **{
        port: _LATER.format(f"`.{port}` inside attention")
        for port in ("queries", "keys", "values", "scores", "pattern", "heads")
    },
}


class UnknownSiteError(MLXGraphError, AttributeError, KeyError):
    """A name that no module of the model has."""

    def __init__(self, name: str, known: Iterable[str], owner: str = "the model"):
        known = list(known)
        hint = _suggest(close_matches(name, known))
        if not hint:
            shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            hint = f"\n  It has: {shown or 'no modules'}."
        known_elsewhere = ELSEWHERE.get(name.rpartition(".")[2])
        super().__init__(
            f"{owner} has no module {name!r}.{hint}\n"
            f"  {known_elsewhere or 'model.named_modules() lists every name.'}"
        )


class MissingParamError(MLXGraphError, KeyError):
    """A run without a value for one of the graph's params."""

    def __init__(self, name: str):
        super().__init__(
            f"the graph needs a value for its param {name!r}.\n  Write fast(x, {name}=...), or"
            f" model.run(g, x, {name}=...); g.bind({name}=...) fixes it."
        )


class UnknownNameError(MLXGraphError, KeyError):
    """A save, parameter or step that does not exist."""

    def __init__(self, what: str, name: str, known: Iterable[str], advice: str = ""):
        known = list(known)
        hint = _suggest(close_matches(name, known)) or (
            f"\n  There is: {', '.join(known)}." if known else "\n  There is none."
        )
        super().__init__(f"no {what} named {name!r}.{hint}{advice and chr(10) + '  ' + advice}")


class NeverCalledError(MLXGraphError, ValueError):
    """A module that this forward does not call, so that nothing can be read or written there."""

    def __init__(
        self, site: str, where: str, called: Iterable[str], times: int = 0, reason: str = ""
    ):
        if reason:
            MLXGraphError.__init__(self, f"{site} has no value: {reason}\n  at {where}")
            return
        nearby = _suggest(close_matches(site, called))
        how = (
            f"the forward calls it {times} time{'s' if times != 1 else ''} with these inputs"
            if times
            else "the forward never calls it with these inputs"
        )
        super().__init__(
            f"{site} has no value: {how}.\n  at {where}{nearby}\n"
            "  A module that the model reaches by another method (a tied embedding's "
            "`as_linear`, say) is not a call: use the module around it."
        )


class OrderError(MLXGraphError, ValueError):
    """An edit needs a value that the forward pass has not produced yet."""

    def __init__(self, write: str, read: str, where: str, read_where: str):
        super().__init__(
            f"cannot write {write} from {read}: the model computes {read} later.\n"
            f"  written at {where}\n  {read} was read at {read_where or where}\n"
            f"  Write at {read} or after it, or save {read} in an earlier trace and use it here."
        )


class ShapeError(MLXGraphError, ValueError):
    """Shapes that do not fit, at the line that wrote them together."""

    def __init__(self, what: str, where: str, advice: str = "", listing: str = ""):
        lines = [what, f"  at {where}", advice and f"  {advice}", listing]
        super().__init__("\n".join(filter(None, lines)))


class OperationError(MLXGraphError, TypeError, ValueError):
    """An operation that MLX does not accept for these values."""

    def __init__(self, op: str, shapes: str, where: str, reason: str, listing: str = ""):
        super().__init__(
            f"{op} does not accept {shapes}: {reason}\n  at {where}{listing and chr(10) + listing}"
        )


class BoundsError(MLXGraphError, IndexError):
    """A static index outside the array: MLX itself would read rubbish or ignore the write."""

    def __init__(self, index: int, axis: int, size: int, shape: tuple, where: str):
        valid = f"from {-size} to {size - 1}" if size else "none: the axis is empty"
        super().__init__(
            f"index {index} is out of bounds for axis {axis} of size {size} (shape {shape}).\n"
            f"  at {where}\n  Valid indices: {valid}."
        )


class StaleHandleError(MLXGraphError, ValueError):
    """A write through a handle whose site's value was replaced in the meantime."""

    def __init__(self, site: str, where: str, replaced: str):
        super().__init__(
            f"cannot write through this handle of {site}: the value was replaced at {replaced}.\n"
            f"  at {where}\n"
            f"  The handle still reads the old value. Read {site} again, and write into that."
        )


class NotSavedError(MLXGraphError, RuntimeError):
    """A proxy used after its block, without having been saved."""

    def __init__(self, what: str, where: str):
        super().__init__(
            f"{what} was not saved, and its trace is over.\n  recorded at {where}\n"
            "  Write `value = value.save()` inside the block, and use `value` after it."
        )


class OutsideTraceError(MLXGraphError, RuntimeError):
    """A site used where no trace of its model is open."""

    def __init__(self, what: str, advice: str = ""):
        super().__init__(
            f"{what} is only known while the model runs.\n"
            "  Write `with model.trace(inputs) as t:` and use it inside that block."
            f"{advice and chr(10) + '  ' + advice}"
        )


class EscapedError(MLXGraphError, TypeError):
    """A proxy went through code that the recording cannot see."""

    def __init__(self, where: str, advice: str = ""):
        super().__init__(
            "a recorded value went through a function that the recording cannot see (imported by"
            " name before the trace, or transformed by MLX), and came out as an array that holds"
            f" nothing.\n  used at {where}\n  "
            + (
                advice
                or "Write `mx.softmax(h)` instead of a `softmax` imported earlier, or"
                " `mg.apply(fn, h)` to run any function as it is."
            )
        )


class ForeignProxyError(MLXGraphError, ValueError):
    """A proxy of one open trace used in another."""

    def __init__(self, what: str, where: str):
        super().__init__(
            f"{what} belongs to another trace that is still open: its value is not known yet.\n"
            f"  at {where}\n"
            "  Save it and close its block first, or use `t.invoke` blocks of one trace."
        )


class LookError(MLXGraphError, RuntimeError):
    """A value that cannot be looked at inside the block."""


class OpaqueError(MLXGraphError, TypeError):
    """A graph holds a Python function that this operation cannot see into."""


class NoTokenizerError(MLXGraphError, ValueError):
    """Text given to a model that has no tokenizer."""

    def __init__(self, what: str = "text"):
        super().__init__(
            f"{what} needs a tokenizer, and this model has none.\n"
            "  Write InterpretableModel(model, tokenizer=tokenizer), or pass token ids."
        )


class InputError(MLXGraphError, ValueError):
    """Inputs of a kind that no trace can take."""


class ModelLoadError(MLXGraphError, ValueError):
    """A string that names no model that can be loaded."""

    def __init__(self, name: str, reason: str):
        super().__init__(
            f"cannot load a model from {name!r}: {reason}\n"
            "  Pass an nn.Module, the path of a folder with config.json and weights, or the"
            " name of a model on the hub such as 'mlx-community/Llama-3.2-1B-Instruct-4bit'."
        )


class LayersError(MLXGraphError, AttributeError):
    """The model has no list of layers under the given attribute."""


class CompileError(MLXGraphError, ValueError):
    """A pass that was asked to compile and cannot be."""


class MergeError(MLXGraphError, ValueError):
    """Two graphs that cannot stand side by side."""


class ParamError(MLXGraphError, ValueError):
    """A value that does not fit the param it is given for."""

    def __init__(self, name: str, shape: tuple | None, given: str):
        wanted = "a number" if shape is None else f"shape {tuple(shape)}"
        super().__init__(
            f"param {name!r} takes {wanted}, and was given {given}.\n"
            f"  Give it {wanted}, or declare mg.param({name!r}, shape=...) with another shape."
        )


class UnboundParamError(NotSavedError):
    """A value that waits for params that were never given."""

    def __init__(self, names: Iterable[str]):
        shown = ", ".join(names)
        MLXGraphError.__init__(
            self,
            f"this value needs a value for the param {shown}, so its trace did not run.\n"
            f"  Write model.trace(x, params={{{shown.split(', ')[0]!r}: ...}}), or run the graph:"
            f" model.run(t.graph, x, {shown.split(', ')[0]}=...).",
        )


class CountError(MLXGraphError, ValueError):
    """A pattern that matches another number of modules than `expect` says."""

    def __init__(self, pattern: str, found: list[str], expect: int, where: str):
        listed = ", ".join(found[:6]) + (", ..." if len(found) > 6 else "")
        super().__init__(
            f"{pattern!r} was to match {expect} modules and matches {len(found)}: "
            f"{listed or 'none'}.\n  written at {where}\n"
            "  Correct the pattern, or `expect`."
        )


class GraphFileError(MLXGraphError, ValueError):
    """A file that is no graph this version can read."""


class RewriteError(MLXGraphError, RuntimeError):
    """Rewrite rules that never come to rest, or that return what is no node."""


class NameTakenError(MLXGraphError, AttributeError):
    """An added module under a name that the model uses."""

    def __init__(self, name: str):
        super().__init__(
            f"the model already has {name!r}.\n"
            "  Add the module under another name: `model.my_sae = module`. To exchange a module of"
            " the model itself, set it on the module that you wrapped."
        )


class GradientError(MLXGraphError, ValueError):
    """A gradient that has no meaning where it was asked for."""


class GradientOrderError(OrderError):
    """A write that needs a gradient, which is known only when the forward is over."""

    def __init__(self, write: str, where: str):
        MLXGraphError.__init__(
            self,
            f"cannot write {write} with a gradient: gradients are known when the whole forward is"
            f" over.\n  written at {where}\n"
            "  Save the gradient, and write with it in a later trace.",
        )


class TokenGradientError(MLXGraphError, TypeError):
    """A gradient with respect to token ids."""

    def __init__(self) -> None:
        super().__init__(
            "token ids are integers: there is no gradient with respect to them.\n"
            "  Differentiate with respect to the embedding's output instead: inside the trace"
            " write `model.model.embed_tokens.output = x`, with x a float array of its shape; or"
            " trace a model that takes float inputs."
        )


class HeadsError(MLXGraphError, ValueError):
    """`heads=` on a module whose heads cannot be told apart."""

    def __init__(self, path: str, kind: str, where: str):
        super().__init__(
            f"{path} ({kind}) has no heads that can be told apart: it needs a head count and an"
            f" output projection.\n  written at {where}\n"
            "  Name the attention module (`layers.3.attn`), or edit a view of its output."
        )


class InterventionError(MLXGraphError, ValueError):
    """Arguments with which an intervention has no meaning."""


class AlignError(MLXGraphError, ValueError):
    """An alignment that does not exist, or one that is needed and was not given."""

    def __init__(self, given: str, known: Iterable[str]):
        super().__init__(
            f"there is no alignment {given!r}.\n"
            f"  Write align={' or align='.join(repr(name) for name in known)}."
        )


class LengthsError(AlignError):
    """Two texts of different token lengths whose positions were to be matched."""

    def __init__(self, clean: int, corrupted: int):
        MLXGraphError.__init__(
            self,
            f"the clean text has {clean} tokens and the corrupted text {corrupted}, so their "
            "positions do not correspond.\n"
            "  Use texts of one length, or say which positions match: align='start' or 'end'.",
        )


class BaselineError(MLXGraphError, ValueError):
    """A comparison whose two sides agree already, so that no share of it can be stated."""


class PositionError(MLXGraphError, IndexError):
    """A token position that a text does not have."""

    def __init__(self, position: int, length: int, what: str = "the text"):
        super().__init__(
            f"position {position} is outside {what}, which has {length} tokens.\n"
            f"  Positions go from {-length} to {length - 1}; -1 is the last token."
        )


class UnembeddingError(MLXGraphError, ValueError):
    """A state that the model's final norm and head cannot turn into token scores."""


class MissingDependencyError(MLXGraphError, ImportError):
    """An optional package that this call needs and that is not installed."""

    def __init__(self, package: str, what: str, extra: str = ""):
        super().__init__(
            f"{what} needs {package}, which is not installed.\n"
            f"  Install it with `pip install {extra or package}`."
        )
