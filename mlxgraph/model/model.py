"""The lobby: `InterpretableModel` joins the rooms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.analysis.lens import logit_lens
from mlxgraph.analysis.patching import activation_patching
from mlxgraph.analysis.unembed import get_token_predictions
from mlxgraph.errors import (
    InputError,
    ModelLoadError,
    NameTakenError,
    NoTokenizerError,
    OutsideTraceError,
    UnknownSiteError,
)
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import CALL
from mlxgraph.graph.site import INPUTS, OUTPUT, Site
from mlxgraph.model.compiled_pass import CompiledPass, Result
from mlxgraph.model.explain import Explanation, explain
from mlxgraph.model.optimize import Optimize, for_saves, passes_named
from mlxgraph.model.traced_function import PassFunction
from mlxgraph.record.freeze import freeze
from mlxgraph.record.recording import Recording
from mlxgraph.record.stack import stack
from mlxgraph.run.names import Names
from mlxgraph.run.runner import CompileMode, Runner
from mlxgraph.trace.inputs import encode, prepare
from mlxgraph.trace.module_handle import ModuleHandle
from mlxgraph.trace.prompts import Invokes
from mlxgraph.trace.trace import Interventions, Trace

EXAMPLE_LENGTH = 8
_OWN = ("output", "input", "inputs")


class InterpretableModel:
    """A model that can be traced.  The wrapped module is never changed.

    Args:
        model: any `mlx.nn.Module`; or a path or hub name that `mlx_lm.load` reads.
        tokenizer: for text inputs; loaded with the model where `model` is a string.
        layer_attr: the attribute that holds the layers (`"h"` for GPT-2, dotted paths too).

    Raises: ModelLoadError (a ValueError) for a string that cannot be loaded, LayersError (an
        AttributeError) where a `layer_attr` was given that the model does not have.

    Example:
        >>> model = mg.tiny()
        >>> with model.trace("The capital of France is"):
        ...     logits = model.output[:, -1].save()
    """

    def __init__(
        self, model: nn.Module | str | Path, tokenizer: Any = None, layer_attr: str = "layers"
    ):
        if isinstance(model, (str, Path)):
            model, loaded = _load(str(model))
            tokenizer = loaded if tokenizer is None else tokenizer
        if not isinstance(model, nn.Module):
            raise ModelLoadError(repr(model), f"a {type(model).__name__} is not an nn.Module.")
        put = object.__setattr__
        put(self, "_module", model)
        put(self, "tokenizer", tokenizer)
        put(self, "_runner", Runner(model, for_saves, passes_named(True)))
        put(self, "_layer_attr", layer_attr)
        given = layer_attr != "layers"
        put(self, "_names", Names(self._runner.refresh(), layer_attr, given))
        put(self, "_edits", None)

    # -- tracing --------------------------------------------------------------------------------

    def trace(
        self,
        *inputs: Any,
        interventions: Interventions | None = None,
        graph: Graph | None = None,
        params: dict[str, Any] | None = None,
        compile: CompileMode = "auto",
        optimize: Optimize = True,
        **forward_kwargs: Any,
    ) -> Any:
        """Open a block in which edits and saves are recorded; it runs once, when it ends.

        Args:
            inputs: a text, a list of texts, token ids (a list, or an array of shape
                (batch, length)), or the arrays that a custom model takes.
            interventions: functions of one array by module name, applied first.
            graph: a graph to start from.
            params: values for params, by name; those of `graph` may also be given as keywords.
                A block that uses params without values is recorded and not run.
            compile: `"auto"` compiles what comes a second time; True and False force it.
            optimize: True simplifies the graph for the run by every pass, False by none, and
                names of passes by these: `optimize=("pushdown",)`.
            forward_kwargs: keyword arguments of the model, and values of the graph's params.

        Returns: a Trace; without any inputs, a trace of several prompts (`t.invoke`).
        Raises: NoTokenizerError, InputError, UnknownSiteError.
        """
        if not inputs and not forward_kwargs:
            if interventions or graph is not None:
                raise InputError(
                    "a trace of several prompts takes no edits of its own.\n"
                    "  Give them to each: `with t.invoke(prompt, interventions=...)`."
                )
            return Invokes(self, compile, params or {}, passes_named(optimize))
        if len(inputs) == 2 and interventions is None and _is_interventions(inputs[1]):
            interventions = inputs[1]
            inputs = inputs[:1]
        prepared = prepare(inputs, self.tokenizer)
        return Trace(
            self,
            prepared,
            interventions,
            graph,
            compile,
            dict(forward_kwargs),
            params,
            passes=passes_named(optimize),
        )

    def run(
        self,
        graph: Graph,
        *inputs: Any,
        compile: CompileMode = "auto",
        optimize: Optimize = True,
        **kwargs: Any,
    ) -> Result:
        """Run a graph once.  Args as for `trace` and `CompiledPass.__call__`."""
        return CompiledPass(self, graph, compile, passes_named(optimize))(*inputs, **kwargs)

    def compile(self, graph: Graph, *, optimize: Optimize = True) -> CompiledPass:
        """A graph as a compiled function of inputs and params."""
        return CompiledPass(self, graph, True, passes_named(optimize))

    def explain(
        self, graph: Graph, *inputs: Any, optimize: Optimize = True, **kwargs: Any
    ) -> Explanation:
        """What each pass makes of a graph, and what a run with these inputs will do.

        Returns: a page of text; nothing is computed.
        """
        return explain(self, graph, inputs, passes_named(optimize), kwargs)

    def pass_(
        self, function: Any = None, *, compile: CompileMode = "auto", optimize: Optimize = True
    ) -> Any:
        """A function of the proxied model as a compiled pass: `@model.pass_`.

        Example:
            >>> @model.pass_
            ... def steered(m, alpha, v):
            ...     m.layers[5].output[:, -1] += alpha * v
            ...     return m.output[:, -1]
            >>> logits = steered("The capital of France is", 2.0, v)
        """
        if function is None:
            return lambda function: self.pass_(function, compile=compile, optimize=optimize)
        return PassFunction(self, function, compile, passes_named(optimize))

    def edit(self, graph: Graph | None = None, *example: Any) -> Any:
        """A model with edits that stay: weights are shared, this model is untouched.

        Args:
            graph: the edits; they come after those this model already has.  Without a graph,
                the edits are recorded: `with model.edit() as edited:`.
            example: inputs to record with, where the model takes other things than tokens.

        Returns: an InterpretableModel, or a block that gives one.
        """
        if graph is None or not isinstance(graph, Graph):
            return EditBlock(self, (graph, *example) if graph is not None else example)
        return self._edited(graph)

    def _edited(self, graph: Graph) -> InterpretableModel:
        twin = object.__new__(InterpretableModel)
        for name in ("_module", "tokenizer", "_runner", "_layer_attr", "_names"):
            object.__setattr__(twin, name, getattr(self, name))
        object.__setattr__(twin, "_edits", self._edits >> graph if self._edits else graph)
        return twin

    def without_edits(self) -> InterpretableModel:
        """The same model without the edits that stay on it."""
        if self._edits is None:
            return self
        twin = self._edited(Graph())
        object.__setattr__(twin, "_edits", None)
        return twin

    @property
    def edits(self) -> Graph:
        """The edits that stay on this model, as a graph."""
        return self._edits or Graph()

    # -- the tree -------------------------------------------------------------------------------

    @property
    def layers(self) -> Any:
        """The layers, by index: `model.layers[3]`, `len(model.layers)`, iteration."""
        return self._layers(None)

    def _layers(self, trace: Trace | None) -> ModuleHandle:
        self._refresh_names()
        if self._names.container is None:
            raise self._names.no_layers()
        return self._handle(self._names.container, trace)

    def _handle(self, path: str, trace: Trace | None = None) -> ModuleHandle:
        return ModuleHandle(self, path, trace)

    @property
    def output(self) -> Any:
        """The whole model's output, inside a trace."""
        return self._open_recording("model.output").read(Site("", OUTPUT))

    @output.setter
    def output(self, value: Any) -> None:
        self._open_recording("model.output").replace(Site("", OUTPUT), value)

    @property
    def inputs(self) -> Any:
        """All that the model is called with, `(args, kwargs)`, inside a trace."""
        return self._open_recording("model.inputs").read(Site("", INPUTS))

    @inputs.setter
    def inputs(self, value: Any) -> None:
        self._open_recording("model.inputs").replace(Site("", INPUTS), value)

    @property
    def input(self) -> Any:
        """The model's first argument, inside a trace."""
        return self._handle("").input

    @input.setter
    def input(self, value: Any) -> None:
        self._handle("").input = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._refresh_names()
        if name == "layers":  # the property above has raised, and Python asks here
            raise self._names.no_layers()
        return getattr(self._handle(""), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
            return
        if isinstance(value, nn.Module):
            self._add_module(name, value)
            return
        raise UnknownSiteError(name, _OWN, "a write to the model")

    def _add_module(self, name: str, module: nn.Module) -> None:
        """`model.sae = module`: addressable and traceable, and no part of the wrapped model."""
        if name not in self._runner.added and hasattr(self, name):
            raise NameTakenError(name)
        self._runner.add(name, module)
        self._refresh_names()

    def __getitem__(self, name: str) -> ModuleHandle:
        """A module by any form of its name: `model["layers.5.mlp"]`."""
        self._refresh_names()
        return self._handle(self._names.canonical(name))

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._handle("")._children()})

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Every module with its canonical path; the model itself has the path `""`."""
        yield from self._runner.refresh().modules.items()

    def parameters(self) -> dict[str, mx.array]:
        """Every parameter by its dotted name, in one flat mapping."""
        tree = self._runner.refresh()
        return dict(zip(tree.weight_names, tree.weights(), strict=True))

    @property
    def compilations(self) -> int:
        """How many passes `mx.compile` has traced on this model so far."""
        return self._runner.compilations

    @property
    def module(self) -> nn.Module:
        """The wrapped module itself."""
        return self._module

    def _refresh_names(self) -> None:
        """Notice exchanged modules; inside a block the tree stays as it was when it opened."""
        if any(recording.owner._module is self._module for recording in stack.open):
            return
        tree = self._runner.refresh()
        if self._names.tree is not tree:
            object.__setattr__(self, "_names", Names(tree, self._layer_attr, False))

    def _open_recording(self, what: str) -> Recording:
        for recording in reversed(stack.open):
            if recording.owner._module is self._module:
                return recording
        raise OutsideTraceError(what)

    def _call_module(self, path: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run a module on a value as it is: recorded inside a trace, at once outside."""
        open_here = [r for r in stack.open if r.owner._module is self._module]
        path = self._names.tree.aliases.get(path, path)
        if not open_here:
            return self._runner.tree.modules[path](*args, **kwargs)
        recording = open_here[-1]
        frozen = tuple([freeze(value, recording) for value in args])
        named = tuple([(name, freeze(value, recording)) for name, value in kwargs.items()])
        result = recording.result(CALL, (path, *frozen), named)
        recording.by_hand[path] = result
        return result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model, with the edits that stay on it, on plain arrays."""
        if self._edits and not stack.open:
            return CompiledPass(self, Graph(), "auto")(*args, **kwargs).output
        return self._call_module("", args, kwargs)

    # -- analyses: functions of a model, and so methods of it ------------------------------------

    get_token_predictions = get_token_predictions
    logit_lens = logit_lens
    activation_patching = activation_patching

    # -- text -----------------------------------------------------------------------------------

    def _needs_tokenizer(self, what: str) -> Any:
        if self.tokenizer is None:
            raise NoTokenizerError(what)
        return self.tokenizer

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, special tokens included.  Raises: NoTokenizerError."""
        return encode(self._needs_tokenizer("encode"), text)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of several texts, each of its own length.  Raises: NoTokenizerError."""
        return [self.encode(text) for text in texts]

    def decode(self, tokens: list[int] | mx.array) -> str:
        """The text of token ids, a list or a one-dimensional array.  Raises: NoTokenizerError."""
        tokenizer = self._needs_tokenizer("decode")
        if isinstance(tokens, mx.array):
            tokens = tokens.tolist()  # type: ignore[assignment]
        return tokenizer.decode([int(token) for token in tokens])

    def token_to_str(self, token_id: int) -> str:
        """The text of one token.  Raises: NoTokenizerError."""
        return self.decode([int(token_id)])

    @property
    def vocab_size(self) -> int | None:
        """The tokenizer's vocabulary size, or None without a tokenizer."""
        if self.tokenizer is None:
            return None
        size = getattr(self.tokenizer, "vocab_size", None)
        return int(size) if size is not None else len(self.tokenizer)

    def __repr__(self) -> str:
        return f"InterpretableModel({type(self._module).__name__})"


class EditBlock:
    """`with model.edit() as edited:`: the block's writes stay on `edited`."""

    def __init__(self, model: InterpretableModel, example: tuple):
        self._model = model
        self._example = example or (mx.zeros((1, EXAMPLE_LENGTH), mx.int32),)
        self._trace: Trace | None = None
        self._edited: InterpretableModel | None = None

    def __enter__(self) -> InterpretableModel:
        self._edited = edited = self._model._edited(Graph())
        prepared = prepare(self._example, self._model.tokenizer)
        self._trace = Trace(edited, prepared, None, None, False, {}, run=False)
        self._trace.__enter__()
        return edited

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        assert self._trace is not None and self._edited is not None
        self._trace.__exit__(kind, error, traceback)
        if error is None:
            object.__setattr__(self._edited, "_edits", self._trace.graph)


def _is_interventions(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(callable, value.values()))


def _load(name: str) -> tuple[nn.Module, Any]:
    from mlx_lm import load  # transformers takes seconds to import: only who loads a model pays

    try:
        loaded = load(name)
    except Exception as error:  # mlx-lm raises whatever its parts raise
        raise ModelLoadError(name, f"{type(error).__name__}: {error}") from error
    return loaded[0], loaded[1]
