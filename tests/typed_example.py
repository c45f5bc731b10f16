"""What a type checker sees of a user's program: read by mypy in `make check`, and run as a test.

Pyright reads it too, in `tests/surface/test_repl.py`, where it is on the PATH.

`assert_type` fails the check where a type is another one, `Any` included.
"""

from __future__ import annotations

from typing import Any, assert_type

import mlx.core as mx

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.analysis.lens import Lens
from mlxgraph.analysis.patching import Recovery
from mlxgraph.analysis.predictions import Predictions
from mlxgraph.model.compiled_pass import CompiledPass
from mlxgraph.trace.activations import Activations
from mlxgraph.trace.module_handle import ModuleHandle
from mlxgraph.trace.prompts import Prompts

TEXT = "The capital of France is"


def main() -> dict[str, mx.array]:
    """A short session, each of whose steps has a type."""
    model = mg.tiny()
    assert_type(model, mg.InterpretableModel)
    assert_type(model.layers, ModuleHandle)
    assert_type(model.layers[0], ModuleHandle)
    assert_type(model.layers[:2], list[ModuleHandle])
    assert_type(model["layers.1.mlp"], ModuleHandle)
    assert_type(model.sites("layers.*.mlp"), list[str])

    with model.trace(TEXT, interventions={"layers.1": iv.scale(0.5)}) as t:
        assert_type(t, mg.Trace)
        model.layers[2].output[:, -1] *= 2.0
        t.layers[3].output.save("h")
    assert_type(t.graph, mg.Graph)
    assert_type(t.activations, Activations)
    assert_type(t.lengths, list[int] | None)

    with model.trace(TEXT):
        state = model.layers[4].output[0, -1].save()
    assert_type(state, Any)  # and not "possibly unbound": the block swallows no errors

    changes = {handle: iv.scale(0.5) for handle in model.layers}
    with model.trace(TEXT, interventions=changes):
        pass
    with model.trace(TEXT, interventions={model.layers[1]: iv.zero_out, "layers.2": abs}):
        pass

    with model.trace() as prompts:
        assert_type(prompts, Prompts)
        with prompts.invoke(TEXT):
            model.output.save()

    graph = mg.edit(model.layers[1].mlp, iv.zero_out) >> mg.read("layers.5", name="h")
    assert_type(graph, mg.Graph)
    result = model.run(graph, TEXT)
    assert_type(result["h"], Any)
    assert_type(result.saves, dict[str, Any])
    assert_type(result.output, Any)
    assert_type(model.compile(t), CompiledPass)
    assert_type(model.edit(graph), mg.InterpretableModel)
    with model.edit() as edited:
        edited.layers[0].output *= 0.5
    assert_type(edited, mg.InterpretableModel)

    @model.pass_
    def steered(m: mg.InterpretableModel, alpha: float, at: int = -1) -> mx.array:
        m.layers[5].output[:, at] *= alpha
        return m.output[:, -1]

    @model.pass_(compile=True)
    def last(m: mg.InterpretableModel) -> mx.array:
        return m.output[:, -1]

    assert_type(steered(TEXT, 2.0, at=0), mx.array)
    assert_type(last(TEXT), mx.array)
    assert_type(steered.graph(TEXT, 2.0), mg.Graph)

    assert_type(model.logit_lens(TEXT), Lens)
    assert_type(model.encode(TEXT), list[int])
    recovery = model.activation_patching(TEXT, "The capital of Italy is")
    assert_type(recovery, Recovery)
    corrupted = "The capital of Italy is"
    assert_type(model.activation_patching(TEXT, corrupted, positions="all"), mg.Effects)
    assert_type(model.activation_patching(TEXT, corrupted, ["attn", "mlp"]), mg.Effects)
    assert_type(model.causal_trace(TEXT, " France"), mg.Effects)
    assert_type(model.ablation(TEXT), mg.Effects)
    assert_type(model.get_token_predictions(state), Predictions)
    assert_type(mg.collect_activations(model, TEXT), mg.ActivationCache)
    assert_type(mg.batch_get_activations(model, [TEXT], layers=[0]), dict[str, mx.array])
    found = mg.get_activations(model, TEXT, layers=[0])
    assert_type(found, dict[str, mx.array])
    return found


def to_disk(model: mg.InterpretableModel) -> None:
    """Where a folder is named, a store comes back."""
    assert_type(mg.get_activations(model, TEXT, positions="all", to="acts"), mg.ActivationStore)
    assert_type(mg.batch_get_activations(model, TEXT, to="acts"), mg.ActivationStore)
    assert_type(mg.collect_activations(model, TEXT, to="acts"), mg.ActivationStore)


def leave(trace: mg.Trace, prompts: Prompts) -> None:
    """What a block answers as it ends is known: with `Any`, Pyright sees no context manager."""
    assert_type(trace.__exit__(None, None, None), bool | None)
    prompts.__exit__(None, None, None)
