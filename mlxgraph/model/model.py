"""`InterpretableModel`: what a user holds of a model.  It joins the rooms, and holds no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, overload

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.analysis.ablation import ablation
from mlxgraph.analysis.attribution import attribution_patching
from mlxgraph.analysis.causal_trace import causal_trace
from mlxgraph.analysis.composition import composition_scores
from mlxgraph.analysis.direct_logits import direct_logit_attribution
from mlxgraph.analysis.head_scores import head_scores
from mlxgraph.analysis.integrated import integrated_gradients
from mlxgraph.analysis.lens import logit_lens
from mlxgraph.analysis.patching import activation_patching
from mlxgraph.analysis.path_patching import path_patching
from mlxgraph.analysis.predictions import get_token_predictions
from mlxgraph.analysis.steering import steering_curves
from mlxgraph.analysis.top import top
from mlxgraph.errors import (
    InputError,
    LoadOptionError,
    ModelLoadError,
    NameTakenError,
    SiteNameError,
    UnknownSiteError,
)
from mlxgraph.errors.tracebacks import at_the_edge, with_edges
from mlxgraph.graph.graph import Graph, HasGraph, graph_in, graph_of
from mlxgraph.graph.site import INPUTS, OUTPUT, Site
from mlxgraph.mlx_facts.arrays import same_data
from mlxgraph.model import text
from mlxgraph.model.as_module import as_module
from mlxgraph.model.called import called, called_in_block
from mlxgraph.model.edit_block import EditBlock, check_example
from mlxgraph.model.fold import fold
from mlxgraph.model.generate import generate
from mlxgraph.model.load import loaded
from mlxgraph.model.optimize import Optimize, options_of
from mlxgraph.model.residual_stream import residual_stream
from mlxgraph.model.runs import compile, explain, run
from mlxgraph.model.save import save
from mlxgraph.model.sweep import sweep, sweep_plan
from mlxgraph.model.traced_function import pass_
from mlxgraph.model.tree_text import tree_text
from mlxgraph.model.weights import unembed, weight
from mlxgraph.record.no_value import names_a_module
from mlxgraph.record.stack import stack
from mlxgraph.run.engine import Engine
from mlxgraph.run.runner import CompileMode
from mlxgraph.trace.inputs import check_keywords, params_of, prepare
from mlxgraph.trace.module_habits import delete_added, no_loop
from mlxgraph.trace.module_handle import ModuleHandle, children_of, handle_on, layers_of
from mlxgraph.trace.open_block import open_recording, refreshed
from mlxgraph.trace.prompts import Prompts
from mlxgraph.trace.resolve import is_interventions
from mlxgraph.trace.trace import Interventions, Trace

_OWN = ("output", "input", "inputs")


@names_a_module
@with_edges
class InterpretableModel:
    """A model that can be traced.  The wrapped module is never changed.

    Args:
        model: any `mlx.nn.Module`; or a path or hub name that `mlx_lm.load` reads.
        tokenizer: for text inputs; loaded with the model where `model` is a string.
        layer_attr: the attribute that holds the layers (`"h"` for GPT-2, dotted paths too).
        load_options: what `mlx_lm.load` takes, where `model` is a string: `adapter_path`,
            `revision`, `tokenizer_config`, `lazy`, ...

    Raises: ModelLoadError (a ValueError) for a string that cannot be loaded, LoadOptionError (a
        TypeError), LayersError (an AttributeError) for a `layer_attr` that the model does not have.

    Example:
        >>> model = mg.tiny()
        >>> with model.trace("The capital of France is"):
        ...     logits = model.output[:, -1].save()
    """

    _engine: Engine

    @at_the_edge
    def __init__(
        self,
        model: nn.Module | str | Path,
        tokenizer: Any = None,
        layer_attr: str = "layers",
        **load_options: Any,
    ):
        origin: dict[str, Any] = {}
        if isinstance(model, (str, Path)):
            origin = {"name": str(model), "options": load_options}
            model, own = loaded(str(model), load_options)
            tokenizer = own if tokenizer is None else tokenizer
        elif load_options and isinstance(model, nn.Module):
            raise LoadOptionError(list(load_options), None)
        if not isinstance(model, nn.Module):
            raise ModelLoadError(repr(model), f"a {type(model).__name__} is not an nn.Module.")
        object.__setattr__(self, "_engine", Engine(model, tokenizer, layer_attr))
        self._engine.origin = origin

    # -- tracing --------------------------------------------------------------------------------

    @overload
    def trace(  # type: ignore[overload-overlap]  # without inputs, and so without a forward's own
        self,
        *,
        params: dict[str, Any] | None = None,
        compile: CompileMode = "auto",
        optimize: Optimize = True,
        start: bool = False,
    ) -> Prompts: ...

    @overload
    def trace(
        self,
        *inputs: Any,
        interventions: Interventions | None = None,
        graph: Graph | HasGraph | None = None,
        params: dict[str, Any] | None = None,
        compile: CompileMode = "auto",
        optimize: Optimize = True,
        start: bool = False,
        **forward_kwargs: Any,
    ) -> Trace: ...

    def trace(
        self,
        *inputs: Any,
        interventions: Interventions | None = None,
        graph: Graph | HasGraph | None = None,
        params: dict[str, Any] | None = None,
        compile: CompileMode = "auto",
        optimize: Optimize = True,
        start: bool = False,
        **forward_kwargs: Any,
    ) -> Trace | Prompts:
        """Open a block in which edits and saves are recorded; it runs once, when it ends.

        Of several processes each does all of it, however many inputs there are.

        Args:
            inputs: a text, messages (`[{"role": ..., "content": ...}]`, by way of the chat
                template), a list of either, token ids (a list, or an array (length,) or
                (batch, length)), a tokenizer's encoding, or the arrays of a custom model.
            interventions: functions of one array by module name, applied first.
            graph: a graph to start from.
            params: values for params, by name; those of `graph` may also be given as keywords.
                A block that uses params without values is recorded and not run.
            compile: `"auto"` compiles what comes a second time; True and False force it.
            optimize: True simplifies the graph for the run by every rewrite, False by none, and
                names of rewrites by these: `optimize=("pushdown",)`.
            start: begin to compute what is saved as the block ends, while Python goes on; left
                out, MLX begins when a value is looked at.
            forward_kwargs: keyword arguments of the model, and values of the graph's params.
        Returns: a Trace; without any inputs, a trace of several prompts (`t.invoke`).
        Raises: NoTokenizerError, InputError (NoChatTemplateError among them), UnknownSiteError.
        """
        options = options_of(compile, optimize, start)
        graph = None if graph is None else graph_of(graph)
        if not inputs and not forward_kwargs:
            if interventions or graph is not None:
                raise InputError(
                    "a trace of several prompts takes no edits of its own.\n"
                    "  Give them to each: `with t.invoke(prompt, interventions=...)`."
                )
            return Prompts(self._engine, params_of(params), options)
        if len(inputs) == 2 and interventions is None and is_interventions(inputs[1]):
            interventions, inputs = inputs[1], inputs[:1]
        own = dict(forward_kwargs)
        given = {name: own.pop(name) for name in (graph.params if graph else ()) if name in own}
        if own:
            check_keywords(self.module, own, graph.params if graph else ())
        call = prepare(inputs, self._engine, own)
        given |= params_of(params)
        return Trace(self._engine, call, interventions, graph, given, options)

    run, compile, explain = run, compile, explain
    pass_ = pass_
    generate, as_module = generate, as_module
    sweep, sweep_plan = sweep, sweep_plan
    fold, save, residual_stream = fold, save, residual_stream

    @overload
    def edit(self, graph: Graph | HasGraph) -> InterpretableModel: ...

    @overload
    def edit(self, graph: Any = None, *example: Any) -> EditBlock[InterpretableModel]: ...

    def edit(self, graph: Any = None, *example: Any) -> Any:
        """A model with edits that stay: weights are shared, this model is untouched.

        Args:
            graph: the edits; they come after those this model already has.  Without a graph,
                the edits are recorded: `with model.edit() as edited:`.
            example: inputs to record with, where the model takes other things than tokens.
        Returns: an InterpretableModel, or a block that gives one.
        Raises: NotAGraphError (a TypeError) for a function, or a name and a function.
        """
        edits = graph_in(graph)
        if edits is None:
            check_example(graph, example)
            inputs = (graph, *example) if graph is not None else example
            return EditBlock(self._engine, inputs, self._with)
        if example:
            raise InputError("model.edit takes one graph.\n  Write model.edit(first >> second).")
        return self._with(self._engine.with_edits(self._engine.after_edits(edits)))

    @classmethod
    def _with(cls, engine: Engine) -> InterpretableModel:
        twin = object.__new__(cls)
        object.__setattr__(twin, "_engine", engine)
        return twin

    def without_edits(self) -> InterpretableModel:
        """The same model without the edits that stay on it."""
        return self._with(self._engine.with_edits(Graph())) if self._engine.is_edited else self

    @property
    def edits(self) -> Graph:
        """The edits that stay on this model, as a graph."""
        return self._engine.edits

    # -- the tree -------------------------------------------------------------------------------

    @property
    def layers(self) -> ModuleHandle:
        """The layers, by index: `model.layers[3]`, `len(model.layers)`, iteration."""
        return layers_of(self._engine)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that texts go through, or None."""
        return self._engine.tokenizer

    @property
    def output(self) -> Any:
        """The whole model's output, inside a trace."""
        return open_recording(self._engine, "model.output").read(Site("", OUTPUT))

    @output.setter
    def output(self, value: Any) -> None:
        open_recording(self._engine, "model.output").replace(Site("", OUTPUT), value)

    @property
    def inputs(self) -> Any:
        """All that the model is called with, `(args, kwargs)`, inside a trace."""
        return open_recording(self._engine, "model.inputs").read(Site("", INPUTS))

    @inputs.setter
    def inputs(self, value: Any) -> None:
        open_recording(self._engine, "model.inputs").replace(Site("", INPUTS), value)

    @property
    def input(self) -> Any:
        """The model's first argument, inside a trace."""
        return ModuleHandle(self._engine, "").input

    @input.setter
    def input(self, value: Any) -> None:
        ModuleHandle(self._engine, "").input = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        names = refreshed(self._engine).names
        if name == "layers":  # the property above has raised, and Python asks here
            raise names.no_layers()
        root = ModuleHandle(self._engine, "")
        try:
            return getattr(root, name)
        except UnknownSiteError:
            methods = [own for own in dir(type(self)) if not own.startswith("_")]
            known = children_of(self._engine, "")
        raise UnknownSiteError(name, known, also=methods, kind="module or method")

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
        runner = self._engine.runner
        if name not in runner.added and hasattr(self, name):
            raise NameTakenError(name)
        runner.add(name, module)
        refreshed(self._engine)

    __delattr__ = delete_added

    def __iter__(self) -> Any:
        raise no_loop("model", "`for layer in model.layers`, or model.named_modules()")

    def __contains__(self, name: Any) -> bool:
        """Whether a name, a pattern or a handle means a module of this model."""
        names = refreshed(self._engine).names
        return any(names.exists(n.site.path) for n in names.sites(name, may_be_none=True))

    def __getitem__(self, name: str | ModuleHandle) -> ModuleHandle:
        """A module by any form of its name: `model["layers.5.mlp"]`."""
        engine = refreshed(self._engine)
        named = engine.names.site(name)
        if named.site.port == INPUTS and not named.stream:
            module, _, port = str(name).rpartition(".")
            raise SiteNameError(str(name), f"model[{module!r}].{port}")
        return handle_on(engine, named)

    def sites(self, name: str | ModuleHandle) -> list[str]:
        """The canonical names of what a name or pattern means: `model.sites("layers.*.mlp")`.

        Raises: UnknownSiteError where it means nothing.
        """
        return [named.name for named in refreshed(self._engine).names.sites(name)]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *children_of(self._engine, "")})

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Every module with its canonical path; the model itself has the path `""`."""
        yield from self._engine.runner.refresh().modules.items()

    def parameters(self) -> dict[str, mx.array]:
        """Every parameter by its dotted name, in one flat mapping: copies, on the same data."""
        tree = self._engine.runner.refresh()
        return dict(zip(tree.weight_names, map(same_data, tree.weights()), strict=False))

    def refresh(self) -> None:
        """Let go of all that was worked out about the model, compiled runs among it.

        The next trace finds the model as it is now.
        """
        self._engine.runner.forget()

    @property
    def compilations(self) -> int:
        """How many times `mx.compile` has traced a run of this model so far."""
        return self._engine.runner.compilations

    @property
    def module(self) -> nn.Module:
        """The wrapped module itself."""
        return self._engine.root

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model, with the edits that stay on it, on inputs as for `trace`."""
        if stack.open and not stack.paused:
            return called_in_block(self._engine, args, kwargs)
        return called(self._engine, args, kwargs)

    # -- analyses: functions of a model, and so methods of it ------------------------------------

    get_token_predictions, logit_lens = get_token_predictions, logit_lens
    activation_patching, causal_trace = activation_patching, causal_trace
    ablation, steering_curves, top = ablation, steering_curves, top
    path_patching, head_scores = path_patching, head_scores
    attribution_patching = attribution_patching
    integrated_gradients = integrated_gradients
    direct_logit_attribution = direct_logit_attribution
    composition_scores = composition_scores
    weight = weight
    unembed = unembed

    # -- text -----------------------------------------------------------------------------------

    encode = text.encode
    encode_batch = text.encode_batch
    decode = text.decode
    token_to_str = text.token_to_str
    str_tokens = text.str_tokens
    single_token = text.single_token
    position = text.position
    vocab_size = property(text.vocab_size)

    def __str__(self) -> str:
        """The module tree with its sites, parameters and edits: `print(model)`."""
        return tree_text(self._engine)

    def __repr__(self) -> str:
        return f"InterpretableModel({type(self.module).__name__})"

    def _ipython_key_completions_(self) -> list[str]:
        return self._engine.names.spoken()
