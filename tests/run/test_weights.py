"""R11: weights are live, and a module replaced in the tree is seen, compiled or not."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import ClassVar
from weakref import ref

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_flatten, tree_map

import mlxgraph as mg
from mlxgraph.errors import LookError, ModelChangedError
from tests import models


def run(model, given, compile=True):
    with model.trace(given, compile=compile):
        h = model.layers[0].output
        h[:, -1] *= 2
        out = model.output.save()
        called = model.layers[1](h).save()
    return out, called


def by_hand(module, x):
    h = module.layers[0](x)
    h[:, -1] *= 2
    stream = x + mx.tanh(h)
    for layer in module.layers[1:]:
        stream = stream + mx.tanh(layer(stream))
    return stream, module.layers[1](h)


def check(model, x, compile=True):
    for ours, theirs in zip(run(model, x, compile), by_hand(model.module, x), strict=True):
        assert models.same(ours, theirs, 1e-5)


CHANGES = {
    "assigned": lambda m: setattr(m.layers[1], "weight", m.layers[1].weight * -2 + 1),
    "in place": lambda m: m.layers[1].weight.__setitem__(0, 3.0),
    "augmented": lambda m: setattr(m.layers[0], "bias", m.layers[0].bias + 5),
    "update": lambda m: m.update(tree_map(lambda p: p * 0.5, m.parameters())),
    "load_weights": lambda m: m.load_weights(
        [(k, v + 0.25) for k, v in tree_flatten(m.parameters())]
    ),
    "replaced": lambda m: m.layers.__setitem__(1, nn.Linear(6, 6)),
    "replaced by another type": lambda m: m.layers.__setitem__(1, models.Scale(6, 3.0)),
    "appended": lambda m: m.layers.append(nn.Linear(6, 6)),
    "removed": lambda m: m.layers.pop(),
    "no bias": lambda m: m.layers[0].pop("bias"),
    "another class": lambda m: setattr(m.layers[1], "__class__", Doubled),
}


class Doubled(nn.Linear):
    """A linear layer that doubles."""

    def __call__(self, x):
        return super().__call__(x) * 2


@pytest.mark.parametrize("name", CHANGES)
def test_a_compiled_pass_sees_changed_weights_and_modules(chain, x, name):
    check(chain, x)
    check(chain, x)
    before = run(chain, x)[0]
    CHANGES[name](chain.module)
    mx.eval(chain.module.parameters())
    check(chain, x)
    check(chain, x, compile=False)
    check(chain, x)
    assert not models.same(run(chain, x)[0], before, 1e-3)


def test_a_compiled_pass_sees_quantised_layers():
    """As above, on layers wide enough to be quantised."""
    chain = models.made(models.Chain(width=32))
    x = mx.random.normal((2, 4, 32), key=mx.random.key(0))
    check(chain, x)
    before = run(chain, x)[0]
    nn.quantize(chain.module, group_size=32, bits=4)
    assert {type(layer) for layer in chain.module.layers} == {nn.QuantizedLinear}
    check(chain, x)
    check(chain, x, compile=False)
    assert not models.same(run(chain, x)[0], before, 1e-3)


def test_weights_alone_do_not_compile_anew(chain, x):
    for turn in range(5):
        chain.module.layers[1].weight = chain.module.layers[1].weight + turn
        check(chain, x)
    assert chain.compilations == 1


def test_quantising_in_place_is_seen(tokens):
    module = models.make_llama(False)
    model = mg.InterpretableModel(module)

    def logits():
        with model.trace(tokens, compile=True):
            model.layers[0].output += 0.0
            out = model.output.save()
        return out

    assert models.same(logits(), module(tokens), 1e-4)
    full = module(tokens)
    nn.quantize(module, group_size=32, bits=4)
    assert type(module.lm_head) is type(model.lm_head.module) is nn.QuantizedLinear
    assert type(module.model.layers[0].mlp.up_proj) is nn.QuantizedLinear
    assert models.same(logits(), module(tokens), 1e-4)
    assert not models.same(logits(), full, 1e-3)


def test_a_change_of_dtype_is_seen(tokens):
    module = models.make_llama(False)
    model = mg.InterpretableModel(module)
    for dtype in (mx.float32, mx.bfloat16, mx.float16, mx.float32):
        module.set_dtype(dtype)
        for compile in (False, True):
            with model.trace(tokens, compile=compile):
                h = model.layers[1].output
                assert h.dtype == dtype
                h += 0.5
                h = h.save()
                out = model.output.save()
            assert h.dtype == dtype and out.dtype == dtype


def test_a_change_of_shape_in_place_is_seen(x):
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    mx.eval(module.parameters())
    model = mg.InterpretableModel(module)
    for width in (6, 3, 9):
        module.layers[1].weight = mx.ones((width, 6))
        module.layers[1].bias = mx.ones((width,))
        for compile in (False, True):
            with model.trace(x, compile=compile):
                out = model.output
                assert out.shape == (2, 4, width)
                out = out.save()
            assert models.same(out, module(x), 1e-5)


def test_training_between_passes_is_seen(chain, x):
    optimizer = optim.SGD(learning_rate=0.5)

    def loss(module, x):
        return (module(x) ** 2).mean()

    step = nn.value_and_grad(chain.module, loss)
    for _ in range(4):
        check(chain, x)
        _, gradients = step(chain.module, x)
        optimizer.update(chain.module, gradients)
        mx.eval(chain.module.parameters())
    check(chain, x)
    assert chain.compilations == 1


def test_a_compiled_graph_sees_weights_too(chain, x):
    with chain.trace(x) as t:
        chain.layers[0].output += 1
        chain.output.save("out")
    fast = chain.compile(t.graph)
    first = fast(x).saves["out"]
    chain.module.layers[2].weight = chain.module.layers[2].weight * 3
    second = fast(x).saves["out"]
    with chain.trace(x, compile=False):
        chain.layers[0].output += 1
        expected = chain.output.save()
    assert models.same(second, expected, 1e-5) and not models.same(first, second, 1e-3)


def test_names_follow_the_tree(chain, x):
    chain.module.layers.append(nn.Linear(6, 6))
    assert len(chain.layers) == 4
    with chain.trace(x):
        last = chain.layers[3].output.save()
    assert last.shape == (2, 4, 6)
    chain.module.extra = nn.Linear(6, 2)
    assert "extra" in [name for name, _ in chain.named_modules()]
    assert "extra.weight" in chain.parameters()


# -- one array object at several places ----------------------------------------------------------


def born_equal(kind):
    """A Llama in which several weights are one array object."""
    llama = models.make_llama(tied=False)
    first, second = llama.model.layers[0], llama.model.layers[1]
    if kind == "layers":
        second.update(first.parameters())
    elif kind == "projections":
        for layer in llama.model.layers:
            layer.self_attn.v_proj.weight = layer.self_attn.k_proj.weight
    elif kind == "norms":
        first.post_attention_layernorm.weight = first.input_layernorm.weight
    elif kind == "head":
        llama.lm_head.weight = llama.model.embed_tokens.weight
    elif kind == "one module twice":
        llama.model.layers[1] = first
    return llama


@pytest.mark.parametrize("kind", ["layers", "projections", "norms", "head", "one module twice"])
def test_weights_that_were_one_array_are_two_once_a_step_has_parted_them(kind):
    """Weights go by where they sit; which object sits there is of the moment."""
    llama = born_equal(kind)
    model = mg.InterpretableModel(llama)
    tokens = mx.array([[3, 1, 4, 1, 5]])

    def traced():
        with model.trace(tokens, compile=True):
            out = model.output.save()
        return out

    before = traced()
    assert models.same(before, llama(tokens), 1e-4)

    def loss(module):
        return nn.losses.cross_entropy(module(tokens[:, :-1]), tokens[:, 1:]).mean()

    optimizer = optim.SGD(0.5)
    optimizer.update(llama, nn.value_and_grad(llama, loss)(llama)[1])
    mx.eval(llama.parameters())
    assert models.same(traced(), llama(tokens), 1e-4)
    assert not models.same(traced(), before, 1e-3)


def test_an_array_twice_in_one_list_is_two_weights():
    """Containers of arrays have places too: a list's index, a dict's key."""

    class Sum(nn.Module):
        """`x` times each of a list and a dict of weights."""

        def __init__(self):
            super().__init__()
            one = mx.ones((6,))
            self.parts = [one, one, {"a": one, "b": (one, one)}]

        def __call__(self, x):
            a, b, rest = self.parts
            return x * a + 2 * x * b + 3 * x * rest["a"] + 5 * x * rest["b"][1]

    module = Sum()
    model = mg.InterpretableModel(module)
    x = mx.random.normal((2, 6), key=mx.random.key(0))

    def traced():
        with model.trace(x, compile=True):
            out = model.output.save()
        return out

    assert models.same(traced(), 11 * x, 1e-5)
    module.parts[1] = mx.full((6,), 4.0)
    module.parts[2]["a"] = mx.full((6,), 7.0)
    assert models.same(traced(), x * (1 + 8 + 21 + 5), 1e-4)


# -- what is kept, and what is stale --------------------------------------------------------------


def step(module):
    module.update(tree_map(lambda p: p * 0.5 + 0.1, module.parameters()))
    mx.eval(module.parameters())


LATER = {
    "output": lambda t: t.output,
    "activations": lambda t: t.activations["layers.1"],
    "get": lambda t: t.get("layers.1"),
}


@pytest.mark.parametrize("name", LATER)
def test_what_was_not_saved_is_of_the_runs_weights_or_raises(chain, x, name):
    expected = chain.module(x)
    with chain.trace(x) as t:
        chain.layers[0].output.save("kept")
    step(chain.module)
    with pytest.raises(LookError, match=r"test_weights.py:\d+"):
        LATER[name](t)
    with chain.trace(x) as t:
        chain.layers[0].output.save("kept")
    assert not models.same(t.output, expected, 1e-3)


def another_setting(module):
    module.layers[0].gain = 2.0


OTHERWISE = {
    "quantized": nn.quantize,
    "exchanged": lambda module: module.layers.__setitem__(1, nn.Linear(64, 64)),
    "appended": lambda module: module.layers.append(nn.ReLU()),
    "setting": another_setting,
}


@pytest.mark.parametrize("retraced", [False, True])
@pytest.mark.parametrize("change", OTHERWISE)
@pytest.mark.parametrize("name", LATER)
def test_what_was_not_saved_is_of_the_runs_modules_or_raises(name, change, retraced):
    module = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    model, x = mg.InterpretableModel(module), mx.ones((2, 64))
    with model.trace(x) as t:
        kept = model.layers[0].output.save("kept")
    OTHERWISE[change](module)
    if retraced:  # which notices
        with model.trace(x):
            model.output.save()
    with pytest.raises(LookError, match=r"test_weights.py:\d+"):
        LATER[name](t)
    assert kept.shape == (2, 64)
    with pytest.raises(LookError):
        t.get_activation(model.layers[0])


def test_modules_exchanged_inside_a_block_are_refused():
    module = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    model, x = mg.InterpretableModel(module), mx.ones((2, 64))
    linear = nn.Linear(64, 64)
    with pytest.raises(ModelChangedError, match="layers.1"), model.trace(x):
        module.layers[1] = linear
        model.layers[1].output.save()
    with model.trace(x):  # and the next block is on the model as it is
        out = model.layers[1].output.save()
    assert models.same(out, module(x), 1e-5)


def test_what_is_added_to_the_model_does_not_make_a_run_stale(chain, x):
    with chain.trace(x) as t:
        chain.layers[0].output.save()
    chain.probe = nn.Linear(6, 6)
    assert models.same(t.output, chain.module(x), 1e-5)


class Settings(nn.Module):
    """A factor in a plain object, and one in an object inside it."""

    def __init__(self):
        super().__init__()
        self.cfg = SimpleNamespace(scale=2.0, inner=SimpleNamespace(shift=1.0))
        self.inner = nn.Linear(6, 6)

    def __call__(self, x):
        return self.inner(x) * self.cfg.scale + self.cfg.inner.shift


@pytest.mark.parametrize("compile", [True, "auto"])
def test_settings_changed_in_place_in_plain_objects_are_seen(x, compile):
    module = Settings()
    model = mg.InterpretableModel(module)

    def traced():
        with model.trace(x, compile=compile):
            out = model.output.save()
        return out

    for change in (
        lambda: None,
        lambda: setattr(module.cfg, "scale", 5.0),
        lambda: setattr(module.cfg.inner, "shift", -1.0),
        lambda: setattr(module, "cfg", SimpleNamespace(scale=1.0, inner=module.cfg.inner)),
    ):
        change()
        for _ in range(2):
            assert models.same(traced(), module(x), 1e-5)


class Slotted:
    __slots__ = ("inner", "k", "table", "weight")

    def __init__(self):
        self.k, self.table, self.weight = 1.0, {"k": 1.0}, mx.array(1.0)


class Scales(nn.Module):
    """Factors wherever a module can hold them."""

    k = 1.0
    listed: ClassVar = [1.0]

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.lst = [1.0, [1.0]]
        self.d = {"k": 1.0, "inner": {"k": 1.0}}
        self.pair = ({"k": 1.0}, 1.0)
        self.slots = Slotted()

    def factor(self):
        return 1.0

    def __call__(self, x):
        lists = self.lst[0] * self.lst[1][0] * self.listed[0] * self.pair[0]["k"]
        tables = self.d["k"] * self.d["inner"]["k"] * self.d.get("more", 1.0)
        slots = self.slots.k * self.slots.table["k"] * self.slots.weight
        return self.inner(x) * lists * tables * slots * self.k * self.factor()


SETTINGS = {
    "list": lambda m: m.lst.__setitem__(0, 5.0),
    "list in a list": lambda m: m.lst[1].__setitem__(0, 5.0),
    "dict": lambda m: m.d.update(k=5.0),
    "new key": lambda m: m.d.update(more=5.0),
    "dict in a dict": lambda m: m.d["inner"].update(k=5.0),
    "dict in a tuple": lambda m: m.pair[0].update(k=5.0),
    "slot": lambda m: setattr(m.slots, "k", 5.0),
    "dict in a slot": lambda m: m.slots.table.update(k=5.0),
    "array in a slot": lambda m: setattr(m.slots, "weight", mx.array(5.0)),
    "array in a slot, in place": lambda m: m.slots.weight.__imul__(5.0),
    "class": lambda m: setattr(type(m), "k", 5.0),
    "list of the class": lambda m: m.listed.__setitem__(0, 5.0),
    "method of the class": lambda m: setattr(type(m), "factor", lambda self: 5.0),
}


@pytest.mark.parametrize("compile", [True, "auto"])
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_seen_wherever_a_module_holds_them(x, name, compile):
    kind = type("Scales", (Scales,), {"k": 1.0, "listed": [1.0], "factor": Scales.factor})
    module = kind()
    model = mg.InterpretableModel(module)

    def traced():
        with model.trace(x, compile=compile):
            out = model.output.save()
        return out

    for _ in range(3):
        assert models.same(traced(), module(x), 1e-5)
    before = module(x)
    mx.eval(before)
    SETTINGS[name](module)
    assert models.same(module(x), before * 5, 1e-5)
    for _ in range(3):
        assert models.same(traced(), module(x), 1e-5)


def test_old_weights_are_not_kept(chain, x):
    """After a module was called by hand, and looked at, and the weights were replaced."""
    with chain.trace(x):
        chain.layers[1](chain.layers[0].output).tolist()
    with chain.trace(x):
        chain.layers[1](chain.layers[0].output).save()
    old = [ref(weight) for _, weight in tree_flatten(chain.module.parameters())]
    step(chain.module)
    gc.collect()
    assert not any(weight() is not None for weight in old)


@pytest.mark.parametrize("as_default", [False, True])
def test_a_function_keeps_the_array_that_it_captured(as_default):
    """A weight that a function captured, too: after an optimiser step these are two arrays."""

    class Anchored(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(6, 6, bias=False)
            w = self.lin.weight
            anchor = (lambda w=w: w) if as_default else (lambda: w)
            object.__setattr__(self, "anchor", anchor)

        def __call__(self, x):
            return self.lin(x) @ self.anchor()

    model = models.made(Anchored)
    x = mx.random.normal((2, 6))

    def run(compile):
        with model.trace(x, compile=compile):
            out = model.output.save()
        return out

    for _ in range(3):
        for compile in (True, "auto", False):
            assert models.same(run(compile), model.module(x), 1e-5)
        before = model.module(x)
        model.module.lin.weight = model.module.lin.weight * 2
        assert not models.same(before, model.module(x), 1e-3)
