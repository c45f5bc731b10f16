"""`reuse=True`: a run begins at the first edited token of a text that was run before, and never
from what is not as it was."""

from __future__ import annotations

import threading
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_map
from mlx_lm.models import llama

import mlxgraph as mg
from mlxgraph.errors import MissingParamError, MLXGraphError, VocabularyError
from tests import models
from tests.architectures import configs, parts
from tests.architectures.states import entry, first_array, push

TOKENS = mx.array([[1, 7, 3, 9, 4, 2, 5, 11]])
LENGTH = 8
VECTOR = mx.arange(models.WIDTH) / 8 - 2
NEAR = 1e-4


@pytest.fixture
def model() -> mg.InterpretableModel:
    return mg.InterpretableModel(models.make_llama(False))


def graph_of(model: Any, block: Any = None, tokens: Any = TOKENS) -> Any:
    with model.trace(tokens) as t:
        if block is None:
            model.layers[1].output[:, -1] += VECTOR
        else:
            block(model)
        model.output[:, -1].save("last")
    return t.graph


def both(model: Any, graph: Any, *inputs: Any, **params: Any) -> tuple[mx.array, mx.array]:
    """With it and without; the inputs are those of the tests where none are given."""
    inputs = inputs or (TOKENS,)
    return tuple(
        model.run(graph, *inputs, reuse=reuse, **params)["last"] for reuse in (True, False)
    )  # type: ignore[return-value]


def off(one: mx.array, other: mx.array) -> float:
    assert one.shape == other.shape
    one, other = one.astype(mx.float32), other.astype(mx.float32)
    return (mx.abs(one - other).max() / mx.abs(other).max()).item()


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many positions each forward has, as embeddings see it."""
    found: list[int] = []
    real = nn.Embedding.__call__

    def call(self: Any, ids: mx.array) -> mx.array:
        found.append(ids.shape[-1])
        return real(self, ids)

    monkeypatch.setattr(nn.Embedding, "__call__", call)
    return found


BLOCKS = {
    "the last token": None,
    "a token": lambda m: m.layers[1].output[:, 4].__iadd__(VECTOR),
    "several": lambda m: m.layers[1].mlp.input[:, [3, -2]].__iadd__(VECTOR),
    "a head": lambda m: m.layers[1].self_attn.heads[:, 2, 5].__imul__(0),
    "a weight of the pattern": lambda m: m.layers[1].self_attn.pattern[:, 1, 6, 2].__iadd__(0.5),
    "a key": lambda m: m.layers[1].self_attn.keys[:, 1, 3].__iadd__(0.5),
    "a token's id": lambda m: m.model.input.__setitem__((slice(None), 3), 5),
    "all of a layer": lambda m: m.layers[1].output.__iadd__(VECTOR),
    "the first token": lambda m: m.layers[1].output[:, 0].__iadd__(VECTOR),
    "another layer's": lambda m: setattr(m.layers[2], "output", m.layers[0].output),
}
WHOLE = {"all of a layer", "the first token", "another layer's"}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.thin(4)
def test_the_values_are_the_same(model, lengths, name, compile):
    graph = graph_of(model, BLOCKS[name])
    whole = model.run(graph, TOKENS)["last"]
    mx.eval(whole)
    for _ in range(3):
        lengths.clear()
        found = model.run(graph, TOKENS, reuse=True, compile=compile)["last"]
        assert off(found, whole) < NEAR
    if not compile:
        assert (lengths == [LENGTH]) == (name in WHOLE)
    assert off(model.run(graph_of(model, lambda m: None), TOKENS)["last"], whole) > 10 * NEAR


def test_one_edit_of_the_last_token_costs_one_token(model, lengths):
    graph = graph_of(model)
    for _ in range(2):
        mx.eval(model.run(graph, TOKENS, reuse=True, compile=False)["last"])
    lengths.clear()
    mx.eval(model.run(graph, TOKENS, reuse=True, compile=False)["last"])
    assert lengths == [1]
    mx.eval(model.run(graph, TOKENS, compile=False)["last"])
    assert lengths == [1, LENGTH]


def test_several_rows_params_and_deferred_edits(model):
    rows = mx.array([[1, 7, 3, 9], [2, 2, 40, 8], [0, 1, 2, 3]])
    position = mg.param("p", shape=(), dtype="int32")
    with model.trace(rows) as t:
        model.layers[1].output[:, position] += mg.param("alpha") * VECTOR
        model.output[:, -1].save("last")
    for p in (1, 3, -2, 1):
        one, other = both(model, t.graph, rows, p=p, alpha=2.0)
        assert off(one, other) < NEAR
    assert off(one, model.run(t.graph, rows, p=2, alpha=2.0)["last"]) > 100 * NEAR
    deferred = mg.edit("layers.*.mlp", lambda h: -h, positions=-1) >> graph_of(model)
    assert off(*both(model, deferred)) < NEAR
    with pytest.raises(MissingParamError):
        model.run(t.graph, rows, reuse=True, p=1)


def test_texts_and_compiled_passes_of_the_embedded_model():
    tiny, text = mg.tiny(), "The capital of France is"
    with tiny.trace(text) as t:
        tiny.layers[2].output[:, -1] *= 3.0
        tiny.output[:, -1].save("last")
    fast = tiny.compile(t.graph, reuse=True)
    wanted = tiny.run(t.graph, text)["last"]
    for _ in range(2):
        assert off(fast(text)["last"], wanted) < NEAR
    other = tiny.run(t.graph, "The capital of Japan is")["last"]
    assert off(fast("The capital of Japan is")["last"], other) < NEAR
    assert off(other, wanted) > 100 * NEAR


def test_the_output_is_that_of_the_whole_text(model):
    graph = graph_of(model)
    one, other = (model.run(graph, TOKENS, reuse=reuse).output for reuse in (True, False))
    assert off(one, other) < NEAR
    assert one.shape == (1, LENGTH, models.VOCABULARY)


# -- never stale ----------------------------------------------------------------------------------


def exchanged(module: Any) -> None:
    layer = module.model.layers[0].mlp.up_proj
    layer.weight = 1.5 * layer.weight


def in_place(module: Any) -> None:
    weight = module.model.layers[0].mlp.up_proj.weight
    weight += 0.5


def in_part(module: Any) -> None:
    module.model.layers[0].self_attn.v_proj.weight[:4] = 1.0


def turned(module: Any) -> None:
    weight = module.model.layers[0].self_attn.q_proj.weight
    weight[...] = weight.T


def in_place_and_back_twice(module: Any) -> None:
    weight = module.model.layers[0].mlp.up_proj.weight
    for _ in range(3):
        weight += 0.25
        mx.eval(weight)


def trained(module: Any) -> None:
    def loss(tokens: mx.array) -> mx.array:
        return module(tokens)[:, :, 3].sum()

    gradient = nn.value_and_grad(module, loss)(TOKENS)[1]
    optim.SGD(learning_rate=0.05).update(module, gradient)


def loaded(module: Any) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    module.load_weights([(name, mx.ones((64, models.WIDTH)))], strict=False)


def quantised(module: Any) -> None:
    nn.quantize(module, group_size=32, bits=2)


def another_module(module: Any) -> None:
    mx.random.seed(11)
    module.model.layers[0].mlp.up_proj = nn.Linear(models.WIDTH, 64, bias=False)


def setting(module: Any) -> None:
    module.model.layers[0].self_attn.scale *= 4.0


def halved(module: Any) -> None:
    module.update(tree_map(lambda w: (w * 1.3).astype(mx.float16), module.parameters()))


CHANGES = (
    exchanged, in_place, in_part, turned, in_place_and_back_twice, trained, loaded, quantised,
    another_module, setting, halved,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.thin(3)
def test_a_model_that_has_changed_is_seen(model, change):
    graph = graph_of(model)
    before = [both(model, graph)[0] for _ in range(2)][-1]
    mx.eval(before)
    change(model.module)
    one, other = both(model, graph)
    assert off(one, other) < (0.02 if change is halved else NEAR)
    assert off(other, before) > 100 * NEAR, "the change does nothing"


class Gated(llama.TransformerBlock):
    """A layer that adds what all positions have in common, times a weight that is 0 at first."""

    def __init__(self, args: Any):
        super().__init__(args)
        self.gate = mx.zeros((1,))

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        return super().__call__(x, mask, cache) + self.gate * x.mean(axis=1, keepdims=True)


def test_positions_that_begin_to_mix_in_place_are_seen():
    module = models.make_llama(False)
    module.model.layers[2] = layer = Gated(module.args)
    model = mg.InterpretableModel(module)
    graph = graph_of(model)
    one, other = both(model, graph)
    assert off(one, other) < NEAR
    assert model._engine.runner.kept is not None  # it does reuse
    layer.gate[:] = 3.0
    one, other = both(model, graph)
    assert off(one, other) < NEAR


class Wavering(nn.Module):
    """Twice as much in training."""

    def __call__(self, x: mx.array) -> mx.array:
        return 2 * x if self.training else x


def test_the_mode_is_seen(model):
    model.module.model.norm = nn.Sequential(model.module.model.norm, Wavering())
    model.module.eval()
    graph = graph_of(model)
    before = both(model, graph)[0]
    model.module.train()
    one, other = both(model, graph)
    assert off(one, other) < NEAR
    assert off(other, before) > 100 * NEAR


def test_edits_that_stay_are_part_of_the_run(model):
    graph = graph_of(model)
    plain = both(model, graph)[0]
    for positions in (None, -3):
        edited = model.edit(mg.edit("layers.0", lambda h: h + VECTOR, positions=positions))
        one, other = both(edited, graph)
        assert off(one, other) < NEAR
        assert off(one, plain) > 100 * NEAR
    assert off(both(model, graph)[0], plain) < NEAR


def test_few_texts_are_kept_and_none_after_a_refresh(model):
    graph, runner = graph_of(model), model._engine.runner
    for last in range(7):
        text = mx.concatenate([TOKENS[:, :-1], mx.array([[last]])], axis=1)
        assert off(*both(model, graph, text)) < NEAR
    assert len(runner.kept.texts) == 4
    model.refresh()
    assert runner.kept is None


# -- transforms, threads, mistakes ----------------------------------------------------------------


def test_gradients_of_weights_go_through_the_whole_text(model):
    graph, module = graph_of(model), model.module
    assert off(*both(model, graph)) < NEAR  # the text is kept

    def loss(tokens: mx.array, reuse: bool) -> mx.array:
        return model.run(graph, tokens, reuse=reuse)["last"][0, 3]

    one, other = (nn.value_and_grad(module, loss)(TOKENS, reuse)[1] for reuse in (True, False))
    name = "k_proj"  # of which all but one token are before the edit
    one, other = (g["model"]["layers"][1]["self_attn"][name]["weight"] for g in (one, other))
    assert mx.abs(other).max().item() > 1e-4
    assert off(one, other) < NEAR
    assert off(*both(model, graph)) < NEAR  # and nothing of the transformation stayed


def test_gradients_of_params_and_compiled_callers(model):
    with model.trace(TOKENS) as t:
        model.layers[1].output[:, -1] += mg.param("alpha") * VECTOR
        model.output[:, -1].save("last")

    def score(alpha: mx.array, reuse: bool) -> mx.array:
        return model.run(t.graph, TOKENS, reuse=reuse, alpha=alpha)["last"][0, 3]

    one, other = (mx.grad(score)(mx.array(0.5), reuse) for reuse in (True, False))
    assert abs(other.item()) > 1e-3
    assert off(one, other) < NEAR
    compiled = mx.compile(lambda ids: model.run(t.graph, ids, reuse=True, alpha=0.5)["last"])
    wanted = model.run(t.graph, TOKENS, alpha=0.5)["last"]
    for _ in range(2):
        assert off(compiled(TOKENS), wanted) < NEAR
    assert off(model.run(t.graph, TOKENS, reuse=True, alpha=0.5)["last"], wanted) < NEAR


def test_positions_that_a_transformation_follows(model):
    with model.trace(TOKENS) as t:
        model.layers[1].output[:, mg.param("p", shape=(), dtype="int32")] += VECTOR
        model.output[:, -1].save("last")
    ways = [
        mx.vmap(lambda p, reuse=reuse: model.run(t.graph, TOKENS, reuse=reuse, p=p)["last"])
        for reuse in (True, False)
    ]
    one, other = (way(mx.array([3, 5], mx.int32)) for way in ways)
    assert off(one, other) < NEAR
    assert off(one[0], one[1]) > 10 * NEAR


class Limited(nn.Module):
    """Takes texts of at most 8 tokens."""

    def __init__(self):
        super().__init__()
        self.inner = models.make_llama()
        self.layers = self.inner.layers

    def __call__(self, tokens, cache=None):
        if tokens.shape[1] > LENGTH:
            raise ValueError("a text is too long")
        return self.inner(tokens, cache=cache)


def test_a_model_that_takes_no_token_more():
    limited = mg.InterpretableModel(Limited())
    graph = graph_of(limited)
    assert off(*both(limited, graph)) < NEAR
    assert "named positions" in str(limited.explain(graph, TOKENS, reuse=True))
    shorter = TOKENS[:, :5]
    graph = graph_of(limited, tokens=shorter)
    assert off(*both(limited, graph, shorter)) < NEAR
    assert "begin at token 4" in str(limited.explain(graph, shorter, reuse=True))


def test_another_thread(model):
    graph, found = graph_of(model), []
    wanted = both(model, graph)[1]
    mx.eval(wanted)

    def work() -> None:
        with mx.stream(mx.cpu):
            found.append(off(both(model, graph)[0], wanted))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0] < NEAR


def test_ids_that_are_no_tokens(model):
    graph = graph_of(model)
    with pytest.raises(VocabularyError):
        model.run(graph, mx.array([[1, 99, 3, 9, 4, 2, 5, 11]]), reuse=True)


def test_it_is_said_beforehand(model):
    graph = graph_of(model)
    said = str(model.explain(graph, TOKENS, reuse=True))
    assert "begin at token 7 of 8" in said
    assert "if a trial shows" in said
    model.run(graph, TOKENS, reuse=True)
    assert "if a trial shows" not in str(model.explain(graph, TOKENS, reuse=True))
    whole = graph_of(model, BLOCKS["all of a layer"])
    said = str(model.explain(whole, TOKENS, reuse=True))
    assert "begin after model.layers.0, which is kept" in said
    assert "at the first token: it is not of named positions alone" in said
    first = mg.edit("layers.0", lambda h: h * 2) >> mg.read("__model_output__", name="last")
    assert "run the whole text: " in str(model.explain(first, TOKENS, reuse=True))
    assert "begin" not in str(model.explain(graph, TOKENS))


# -- all of mlx-lm --------------------------------------------------------------------------------

SHORT = mx.array([[7, 21, 3, 18, 40, 9]])
INSIDE = {
    "heads": lambda a: a.heads[:, 1, 4].__imul__(-3),
    "keys": lambda a: a.keys[:, 0, 3].__iadd__(1),
    "values": lambda a: a.values[:, 0, -2].__iadd__(1),
    "queries": lambda a: a.queries[:, 1, 2:5].__imul__(-1),
    "pattern": lambda a: a.pattern[:, 1, 4, 2].__iadd__(0.5),
    "scores": lambda a: a.scores[:, 1, 4:, 1].__iadd__(2),
}


def attention(model: Any, name: str) -> Any:
    part = parts.of(name, 1)[0]
    layer = model.layers[1]
    handle = getattr(layer, part) if part else layer
    return getattr(handle, parts.HOLDS[(name, part)]) if (name, part) in parts.HOLDS else handle


def last_of(model: Any, block: Any) -> Any:
    with model.trace(SHORT) as t:
        block()
        first_array(model.output)[:, -1].save("last")
    return t.graph


@pytest.mark.slow
@pytest.mark.parametrize("name", configs.installed(configs.KNOWN.split()))
def test_every_architecture_of_mlx_lm(name):
    model = mg.InterpretableModel(configs.build(name))
    if name in parts.NO_LENS:
        return  # its streams have no axis of positions that is the second
    graph = last_of(model, lambda: push(entry(model)[:, 3]))
    one, other = both(model, graph, SHORT)
    assert off(one, other) < NEAR
    assert off(model.run(graph.replace(writes=()), SHORT)["last"], other) > 10 * NEAR
    for block in INSIDE.values():
        try:
            graph = last_of(model, lambda block=block: block(attention(model, name)))
        except (MLXGraphError, AttributeError, IndexError):
            continue  # it has no such value, or not of one attention
        assert off(*both(model, graph, SHORT)) < NEAR
