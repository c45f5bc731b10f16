"""Models that are spread over two ranks, against the same models whole."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import llama, qwen2
from mlx_lm.sample_utils import make_sampler

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import NoMatrixError, PartError, RankError, RanksDifferError, UnknownSiteError

X = mx.array([[1, 2, 3, 4, 5]])
SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 8,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "vocab_size": 64,
}  # fmt: skip
group = mx.distributed.init()
rank = group.rank()


def apart(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).max())


def both(one: Any, other: Any, ask: Callable[[Any], Any], what: str) -> Any:
    found, wanted = ask(one), ask(other)
    assert apart(found, wanted) < 1e-4, what
    return found


def traced(body: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def ask(model: Any) -> Any:
        with model.trace(X):
            found = body(model)
        return found

    return ask


def stream(model: Any) -> Any:
    model.layers[1].output[:, -1] += 2.0
    model.layers[1].mlp.output *= 0.5
    return model.output.save()


def head(model: Any) -> Any:
    attention = model.layers[1].self_attn
    whole = mg.gather(attention.heads)
    whole[:, 5] = 0
    attention.heads = mg.part(whole)
    return model.output.save()


def value_inside(name: str, model: Any) -> Any:
    return mg.gather(getattr(model.layers[1].self_attn, name)).save()


def alike(model: Any) -> Any:
    model.layers[1].self_attn.heads *= 0.5
    model.layers[0].mlp.down_proj.input *= 0.1
    return model.output.save()


def llamas(quantised: bool) -> tuple[Any, Any]:
    found = []
    for sharded in (False, True):
        mx.random.seed(0)
        args = llama.ModelArgs(model_type="llama", num_hidden_layers=3, **SIZES)
        model = llama.Model(args)
        if quantised:
            nn.quantize(model, 32, 4)
        if sharded:
            model.shard(group)
        found.append(mg.InterpretableModel(model))
    return found[0], found[1]


def tensor_parallel(quantised: bool) -> None:
    whole, ours = llamas(quantised)
    plain = whole.run(mg.Graph(), X).output
    for _ in range(3):  # as it is, once more, and compiled
        edited = both(ours, whole, traced(stream), "an edit of the stream")
    assert apart(edited, plain) > 0.1
    for heads in ([5], [0, -1]):
        graph = mg.edit("layers.1.self_attn", iv.zero_out, heads=heads)
        found = both(ours, whole, lambda model, g=graph: model.run(g, X).output, "heads by number")
        assert apart(found, plain) > 0.1
    name = "layers.1.mlp.down_proj"
    both(ours, whole, lambda model: model.weight(name), "a matrix of parts")
    if not quantised:
        parts_of_values(ours, whole, plain)
        maps(ours, whole)


def parts_of_values(ours: Any, whole: Any, plain: Any) -> None:
    for name in ("queries", "keys", "values", "scores", "pattern", "heads"):
        both(ours, whole, traced(partial(value_inside, name)), name)
    both(ours, whole, traced(lambda m: mg.gather(m.layers[1].self_attn.q_proj.output).save()), "q")
    both(ours, whole, traced(lambda m: mg.gather(m.layers[0].mlp.down_proj.input).save()), "hidden")
    own = traced(lambda model: model.layers[1].self_attn.heads.save())(ours)
    every = traced(lambda model: model.layers[1].self_attn.heads.save())(whole)
    assert own.shape[1] * 2 == every.shape[1]
    assert apart(own, every[:, 4 * rank : 4 * rank + 4]) < 1e-4
    assert apart(mg.gather(own), every) < 1e-4
    assert apart(both(ours, whole, traced(head), "a part of a whole"), plain) > 0.1
    both(ours, whole, traced(alike), "all entries alike")
    graphs = [mg.edit(f"layers.{k}", iv.scale(s)) for k in range(3) for s in (0.5, 2.0)]
    both(ours, whole, lambda model: model.sweep(X, graphs, metric="l2"), "a sweep")
    both(ours, whole, lambda m: mg.get_activations(m, [[1, 2, 3], [4]])["layer_1"], "collection")
    both(ours, whole, lambda model: model.generate([1, 2, 3], max_tokens=3).tokens, "generation")


TEXTS: dict[str, Any] = {"clean": [1, 2, 3, 4, 5], "corrupted": [1, 9, 3, 4, 5]}
TARGETS: dict[str, Any] = {"metric": "logit_diff", "targets": (7, 11)}


def maps(ours: Any, whole: Any) -> None:
    """Maps over heads, by the numbers of the whole model."""
    texts = TEXTS["clean"], TEXTS["corrupted"]
    asked: dict[str, Callable[[Any], Any]] = {
        "patching": lambda m: m.activation_patching(*texts, "heads", **TARGETS),
        "by position": lambda m: m.activation_patching(
            *texts, ["keys", "pattern"], positions="all", normalize=False, **TARGETS
        ),
        "attribution": lambda m: m.attribution_patching(
            *texts, ["heads", "values", "output"], **TARGETS
        ),
        "graddrop": lambda m: m.attribution_patching(*texts, "heads", graddrop=True, **TARGETS),
        "integrated": lambda m: m.integrated_gradients(*texts, "queries", steps=3, **TARGETS),
        "ablation": lambda m: m.ablation(texts[0], "heads"),
        "ablation by a mean": lambda m: m.ablation(texts[0], "heads", "mean", dataset=[texts[1]]),
        "steering": lambda m: m.steering_curves(
            texts[0], mx.ones(8), component="heads", heads=[1, 6], strengths=[2.0]
        ),
        "causal trace": lambda m: m.causal_trace(texts[0], [1], "heads", samples=2, noise=1.0),
        "path patching": lambda m: m.path_patching(*texts, "heads", "queries", **TARGETS),
        "direct, by head": lambda m: m.direct_logit_attribution(texts[0], 7, by="head"),
        "direct, by neuron": lambda m: m.direct_logit_attribution(texts[0], 7, by="neuron"),
        "direct, by position": lambda m: m.direct_logit_attribution(texts[0], 7, by="position"),
        "detectors": lambda m: m.head_scores(length=4, samples=2),
        "a matrix": lambda m: m.weight("layers.1.self_attn.o_proj"),
    }
    for name, ask in asked.items():
        found, wanted = np.asarray(ask(ours)), np.asarray(ask(whole))
        size = np.nanmax(np.abs(wanted))
        assert size > 1e-5, name
        assert np.array_equal(np.isnan(found), np.isnan(wanted)), name
        assert np.nanmax(np.abs(found - wanted)) < 2e-3 * size, (name, found, wanted)


def refused() -> None:
    _, ours = llamas(False)
    with pytest.raises(PartError, match=r"layers\.1\.self_attn\.heads"), ours.trace(X):
        ours.layers[1].self_attn.heads[:, 1] = 0
        ours.output.save()
    with pytest.raises(PartError), ours.trace(X):
        ours.layers[1].mlp.down_proj.input = mx.ones((1, 5, 64))
        ours.output.save()
    with pytest.raises(PartError, match="attribution"):
        texts = TEXTS["clean"], TEXTS["corrupted"]
        ours.attribution_patching(*texts, "queries", method="atp*", **TARGETS)
    with pytest.raises(NoMatrixError):
        ours.weight("layers.0.self_attn.q_proj")
    with pytest.raises(RanksDifferError, match="edits"), ours.trace(X):
        ours.layers[1].output[:, -1] += float(rank)
        ours.output.save()
    error = ValueError if rank else RankError
    with pytest.raises(error, match="on one rank"), ours.trace(X):
        if rank:
            raise ValueError("on one rank")
        ours.output.save()
    whole_things_of_all(ours)
    with ours.trace(X):
        found = ours.output.save()
    if rank == 0:  # computed by now: who looks does not wait for the others
        assert np.isfinite(np.array(found)).all()


def whole_things_of_all(ours: Any) -> None:
    """What runs forward after forward is compared before the first."""
    graphs = [mg.edit(f"layers.{k}", iv.scale(0.5)) for k in range(3)]
    with pytest.raises(RanksDifferError, match="graphs|values|variants"):
        ours.sweep(X, graphs[::-1] if rank else graphs, metric="l2")
    with pytest.raises(RanksDifferError, match="prompts"):
        ours.generate([1, 2 + rank], max_tokens=2).tokens  # noqa: B018 - that runs it
    mx.random.seed(rank)
    for prompts in ([1, 2, 3], [[1, 2], [3]]):
        with pytest.raises(RanksDifferError, match="random state"):
            ours.generate(prompts, max_tokens=2, sampler=make_sampler(1.0)).tokens  # noqa: B018
    own = iter([5, 6 + rank, 7])
    with pytest.raises(RanksDifferError, match="tokens"):
        ours.generate([1, 2], max_tokens=3, sampler=lambda _: mx.array([next(own)])).tokens  # noqa: B018
    mx.random.seed(3)
    found = ours.generate([1, 2, 3], max_tokens=4, sampler=make_sampler(1.0)).tokens
    assert len(found) == 4

    def metric(logits: Any) -> Any:
        if rank:
            raise ValueError("in a metric")
        return logits[0]

    with pytest.raises(ValueError if rank else RankError, match="in a metric"):
        ours.sweep(X, graphs, metric=metric, batch_size=1)
    with pytest.raises(RankError, match="folder"):
        mg.get_activations(ours, [[1, 2]], sites="layers.1", to="nowhere")
    failed: list[Any] = []

    def in_a_thread() -> None:
        with pytest.raises(RankError, match="main thread"), ours.trace(X):
            ours.output.save()
        failed.append(True)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert failed


def pipeline() -> None:
    models = []
    for staged in (False, True):
        mx.random.seed(0)
        model = qwen2.Model(qwen2.ModelArgs(model_type="qwen2", num_hidden_layers=4, **SIZES))
        if staged:
            model.model.pipeline(group)
        models.append(mg.InterpretableModel(model))
    whole, ours = models
    for name in ("model.layers.0", "model.layers.3"):

        def ask(model: Any, name: str = name) -> Any:
            with model.trace(X):
                if name in model:
                    model[name].output[:, -1] *= 2.0
                found = model.output[:, -1].save()
            return found

        both(ours, whole, ask, name)
    graph = mg.edit("layers.*.mlp", iv.scale(0.5))
    both(ours, whole, lambda model: model.run(graph, X).output, "a pattern")
    with whole.trace(X):
        wanted = whole.layers[0].output.save()
    with ours.trace(X):
        found = ours.layers[0].output.save() if "model.layers.0" in ours else None
    assert (found is None) == (rank == 0)
    if found is not None:
        assert apart(found, wanted) < 1e-5
    error = UnknownSiteError if rank == 0 else RankError
    with pytest.raises(error, match="2 to 3"), ours.trace(X):
        ours.layers[0].output.save()


tensor_parallel(False)
tensor_parallel(True)
refused()
pipeline()
sys.stdout.write(f"rank {rank} is done\n")
