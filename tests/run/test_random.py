"""R12: randomness in a pass draws anew on every call and follows the seed, compiled or not."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from tests import models

MODES = [False, True, "auto"]


def noisy(model, x, compile):
    with model.trace(x, compile=compile):
        h = model.layers[0].output
        h += mx.random.normal(h.shape)
        h = h.save()
        out = model.output.save()
    return h, out


@pytest.mark.parametrize("compile", MODES)
def test_each_run_draws_anew(chain, x, compile):
    seen = [noisy(chain, x, compile) for _ in range(4)]
    for k in range(3):
        assert not models.same(seen[k][0], seen[k + 1][0], 1e-3)
        assert not models.same(seen[k][1], seen[k + 1][1], 1e-3)


@pytest.mark.parametrize("compile", MODES)
def test_draws_follow_the_seed(chain, x, compile):
    for _ in range(3):
        mx.random.seed(7)
        first = noisy(chain, x, compile)[0]
        second = noisy(chain, x, compile)[0]
        mx.random.seed(7)
        assert models.same(noisy(chain, x, compile)[0], first, 1e-6)
        assert models.same(noisy(chain, x, compile)[0], second, 1e-6)
        assert not models.same(first, second, 1e-3)


def test_compiled_and_eager_draw_the_same(chain, x):
    results = []
    for compile in (False, True, True):
        mx.random.seed(11)
        results.append(noisy(chain, x, compile)[0])
    assert models.same(results[0], results[1], 1e-6) and models.same(results[1], results[2])


@pytest.mark.parametrize("compile", MODES)
def test_the_state_moves_on_after_a_run(chain, x, compile):
    mx.random.seed(5)
    noisy(chain, x, compile)
    after = mx.random.normal((4,))
    mx.random.seed(5)
    assert not models.same(mx.random.normal((4,)), after)


def test_a_run_without_draws_leaves_the_state_alone(chain, x):
    for compile in MODES:
        mx.random.seed(5)
        with chain.trace(x, compile=compile):
            chain.layers[0].output += 1
            out = chain.output.save()
        mx.eval(out)
        after = mx.random.normal((4,))
        mx.random.seed(5)
        assert models.same(mx.random.normal((4,)), after)


def test_two_draws_of_one_block_differ(chain, x):
    for compile in (False, True):
        with chain.trace(x, compile=compile):
            a = mx.random.uniform(shape=(3,)).save()
            b = mx.random.uniform(shape=(3,)).save()
            c = (chain.layers[0].output[0, 0, :3] * 0 + mx.random.uniform(shape=(3,))).save()
        assert not models.same(a, b) and not models.same(b, c)


def test_a_draw_used_twice_is_one_draw(chain, x):
    for compile in (False, True):
        with chain.trace(x, compile=compile):
            noise = mx.random.normal((6,))
            first = (chain.layers[0].output * 0 + noise).save()
            second = (chain.layers[1].output * 0 + noise).save()
        assert models.same(first, second)


DRAWS = {
    "uniform": lambda h: mx.random.uniform(0.0, 2.0, h.shape),
    "normal": lambda h: mx.random.normal(h.shape, loc=1.0, scale=0.5),
    "normal by keyword": lambda h: mx.random.normal(shape=h.shape),
    "bernoulli": lambda h: mx.random.bernoulli(mx.sigmoid(h)),
    "bernoulli plain": lambda h: mx.random.bernoulli(0.5, h.shape),
    "categorical": lambda h: mx.random.categorical(h),
    "truncated": lambda h: mx.random.truncated_normal(h - 1, h + 1),
    "gumbel": lambda h: mx.random.gumbel(h.shape),
    "laplace": lambda h: mx.random.laplace(h.shape),
    "randint": lambda h: mx.random.randint(0, 1000, h.shape),
    "permutation": lambda h: mx.random.permutation(24),
    "permuted": lambda h: mx.random.permutation(h, axis=2),
    "dropout": lambda h: nn.Dropout(0.5)(h),
}


@pytest.mark.parametrize("name", DRAWS)
def test_every_kind_of_draw_is_plain_mlxs_after_the_same_seed(chain, x, name):
    with chain.trace(x):
        base = chain.layers[0].output.save()
    base = mx.array(base)
    mx.eval(base)
    mx.random.seed(21)
    plain = DRAWS[name](base)
    mx.random.seed(21)
    with chain.trace(x, compile=False):
        ours = DRAWS[name](chain.layers[0].output).save()
    assert models.same(ours, plain, 1e-6)
    with chain.trace(x, compile=False):
        other = DRAWS[name](chain.layers[0].output).save()
    assert not models.same(other, plain)


def test_draws_with_a_key_are_the_same_each_time(chain, x):
    key = mx.random.key(3)
    for compile in (False, True, True):
        with chain.trace(x, compile=compile):
            h = chain.layers[0].output
            noise = mx.random.normal(h.shape, key=key)
            base = mx.array(h).save()
            h += noise
            moved = h.save()
        assert models.same(moved, base + noise, 1e-6)
        assert models.same(noise, mx.random.normal((2, 4, 6), key=key), 1e-6)


def test_a_models_own_draws_are_its_own(x):
    module = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5))
    mx.eval(module.parameters())
    module.train()
    model = mg.InterpretableModel(module)
    for compile in (False, True):
        outs = []
        for _ in range(2):
            with model.trace(x, compile=compile):
                outs.append(model.output.save())
        assert not models.same(*outs)
    mx.random.seed(4)
    plain = module(x)
    mx.random.seed(4)
    with model.trace(x, compile=False):
        model.layers[0].output += 0.0
        out = model.output.save()
    assert models.same(out, plain, 1e-6)


def test_looks_do_not_use_up_draws(chain, x):
    """A look runs what has been recorded; the run at the end draws the same numbers."""
    mx.random.seed(9)
    with chain.trace(x, compile=False):
        h = chain.layers[0].output
        h += mx.random.normal(h.shape)
        looked = h.tolist()
        kept = h.save()
    assert kept.tolist() == looked
    mx.random.seed(9)
    assert models.same(noisy(chain, x, False)[0], kept, 1e-6)


def test_what_is_computed_after_the_block_is_from_the_same_draws(chain, x):
    with chain.trace(x, compile=False) as t:
        h = chain.layers[0].output
        h += mx.random.normal(h.shape)
        kept = h.save()
        out = chain.output.save()
    assert models.same(t.activations["layers.0"], kept)
    assert models.same(t.output, out, 1e-6)
    mx.random.normal((3,))
    assert models.same(t.activations["layers.1"], t.activations["layers.1"])


def test_reseeding_inside_a_block_is_not_part_of_it(chain, x):
    """The pass draws when it runs, at the end of the block, from the state there is then."""
    with chain.trace(x, compile=False):
        noise = mx.random.normal((3,)).save()
        mx.random.seed(33)
    mx.random.seed(33)
    assert models.same(noise, mx.random.normal((3,)))


HIGH = mx.array([1.0, 10.0, 100.0])
KEYED = {
    "uniform": lambda key: mx.random.uniform(0, HIGH, (3,), key=key),
    "uniform from one": lambda key: mx.random.uniform(3, 5, (4,), key=key),
    "uniform by position": lambda key: mx.random.uniform(0, 7, (4,), mx.float32, key),
    "randint": lambda key: mx.random.randint(5, 9, (6,), key=key),
    "randint of arrays": lambda key: mx.random.randint(2, mx.array([3, 50]), (4, 2), key=key),
    "truncated normal": lambda key: mx.random.truncated_normal(-1, HIGH, (3,), key=key),
    "permutation": lambda key: mx.random.permutation(6, key=key),
    "normal": lambda key: mx.random.normal((3,), loc=2, key=key),
    "a split key": lambda key: mx.random.uniform(4, 6, (3,), key=mx.random.split(key)[1]),
    "an array that looks like a key": lambda key: mx.random.randint(
        1, mx.array([9, 99], mx.uint32), (2,), key=key
    ),
    "split": lambda key: mx.random.split(key, 3),
}


@pytest.mark.parametrize("compile", MODES)
@pytest.mark.parametrize("case", KEYED)
@pytest.mark.parametrize("recorded", [False, True])
def test_a_keyed_draw_keeps_its_first_argument(chain, x, case, compile, recorded):
    """Recorded for the sake of another argument (or its key), and on its own."""
    key = mx.random.key(11)
    wanted = KEYED[case](key)
    for _ in range(2):
        with chain.trace(x, compile=compile):
            h = chain.layers[0].output
            own = key + (h[0, 0, :2] * 0).astype(mx.uint32) if recorded else key
            found = KEYED[case](own)
            found = (found if recorded else mx.array(found) + h.sum() * 0).save()
    assert models.same(found.astype(mx.float32), wanted.astype(mx.float32))


@pytest.mark.parametrize("compile", MODES)
def test_a_keyed_draw_between_recorded_bounds(chain, x, compile):
    key = mx.random.key(3)
    for _ in range(2):
        with chain.trace(x, compile=compile):
            high = chain.layers[0].output[0, 0] + 5
            kept = high.save()
            found = [
                mx.random.uniform(0, high, (6,), key=key).save(),
                mx.random.uniform(1, high, (2, 6), key=key).save(),
                mx.random.randint(0, high.astype(mx.int32), (4, 6), key=key).save(),
            ]
    assert models.same(found[0], mx.random.uniform(0, kept, (6,), key=key))
    assert models.same(found[1], mx.random.uniform(1, kept, (2, 6), key=key))
    assert models.same(found[2], mx.random.randint(0, kept.astype(mx.int32), (4, 6), key=key))


def test_a_bound_that_looks_like_a_key_is_a_bound(chain, x):
    bound = mx.array([9, 1000], mx.uint32)
    for compile in MODES:
        with chain.trace(x, compile=compile):
            one = mx.random.randint(5, bound, (2,)).save()
            two = mx.random.randint(5, bound + (chain.output.sum() * 0).astype(mx.uint32), (2,))
            two = two.save()
        for drawn in (one, two):
            assert mx.all(drawn >= 5) and mx.all(drawn < bound)


# -- modules called by hand ------------------------------------------------------------------------


class Noise(nn.Module):
    """The value with noise on it: one draw."""

    def __call__(self, x):
        return x + mx.random.normal(x.shape)


class Noises(nn.Module):
    """Three draws a call, in a tuple."""

    def __call__(self, x):
        return x + mx.random.normal(x.shape), (mx.random.uniform(shape=x.shape), Noise()(x))


def with_module(chain, module):
    chain.noise = module
    module.train()
    return chain


@pytest.mark.parametrize("make", [Noise, lambda: nn.Dropout(0.5)], ids=["noise", "dropout"])
@pytest.mark.parametrize("compile", MODES)
def test_a_module_called_by_hand_draws_anew_each_run_and_each_call(chain, x, compile, make):
    model = with_module(chain, make())
    seen = []
    for _ in range(4):
        with model.trace(x, compile=compile):
            h = model.layers[0].output
            seen += [model.noise(h).save(), model.noise(h).save()]
    for k, one in enumerate(seen):
        assert not any(models.same(one, other, 1e-3) for other in seen[k + 1 :])


@pytest.mark.parametrize("compile", [False, True])
def test_its_draws_are_plain_mlxs_and_follow_the_seed(chain, x, compile):
    model = with_module(chain, Noises())
    with model.trace(x):
        base = model.layers[0].output.save()
    base = mx.array(base)
    mx.eval(base)
    mx.random.seed(3)
    plain = Noises()(base), mx.random.normal((3,)), Noise()(base)
    after = mx.random.normal((2,))
    model.one = Noise()
    for _ in range(2):
        mx.random.seed(3)
        with model.trace(x, compile=compile):
            h = model.layers[0].output
            first, (second, third) = model.noise(h)
            kept = [first.save(), second.save(), third.save()]
            between = mx.random.normal((3,)).save()
            last = model.one(h).save()
        expected = [plain[0][0], *plain[0][1], plain[1], plain[2], after]
        for ours, theirs in zip(
            [*kept, between, last, mx.random.normal((2,))], expected, strict=True
        ):
            assert models.same(ours, theirs, 1e-5)


def test_a_graph_of_such_calls_draws_in_every_run_wherever_it_goes(chain, x):
    model = with_module(chain, Noise())
    with model.trace(x) as t:
        model.noise(model.layers[0].output).save("a")
    graph = t.graph
    twice = graph >> graph.replace(saves=[("b", dict(graph.saves)["a"])])
    for run in (model.compile(twice), lambda given: model.run(twice, given, compile=False)):
        results = [run(x).saves for _ in range(3)]
        values = [value for saves in results for value in (saves["a"], saves["b"])]
        for k, one in enumerate(values):
            assert not any(models.same(one, other, 1e-3) for other in values[k + 1 :])


def test_a_graph_recorded_in_evaluation_draws_in_training(x):
    module = models.made(models.Chain()).module
    model = mg.InterpretableModel(module)
    model.drop = nn.Dropout(0.5)
    model.drop.module.eval()
    with model.trace(x) as t:
        model.drop(model.layers[0].output).save("a")
    model.drop.module.train()
    compiled = model.compile(t.graph)
    seen = [compiled(x)["a"] for _ in range(3)]
    assert not models.same(seen[0], seen[1], 1e-3) and not models.same(seen[1], seen[2], 1e-3)


def test_such_a_graph_comes_back_from_disk_and_is_aimed_elsewhere(chain, x, tmp_path):
    model = with_module(chain, Noise())
    with model.trace(x) as t:
        model.noise(model.layers[0].output).save("a")
    path = tmp_path / "noise.mlxg"
    t.graph.save(path)
    assert mg.Graph.load(path) == t.graph
    assert "noise(" in str(t.graph)
    other = t.graph.retarget({"noise": "layers.1"})
    assert model.run(other, x)["a"].shape == (2, 4, 6)


# -- looks ----------------------------------------------------------------------------------------

LOOKED = {
    "a draw": lambda m, h: mx.random.normal((3,)),
    "of a value": lambda m, h: mx.random.bernoulli(mx.sigmoid(h)),
    "dropout": lambda m, h: nn.Dropout(0.5)(h),
    "by hand": lambda m, h: m.noise(h),
    "arithmetic": lambda m, h: h + mx.random.normal(h.shape) * 2,
}


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", LOOKED)
def test_a_draw_that_was_looked_at_is_the_draw_that_is_saved(chain, x, name, compile):
    model = with_module(chain, Noise())
    for _ in range(2):
        mx.random.seed(1)
        with model.trace(x, compile=compile):
            h = model.layers[0].output
            unused = LOOKED[name](model, h)
            unused.tolist()
            noise = LOOKED[name](model, h)
            looked = noise.tolist()
            h += mx.random.normal(h.shape)
            assert noise.tolist() == looked
            kept = noise.save()
            later = LOOKED[name](model, model.layers[1].output)
            second = later.tolist()
            again = later.save()
            site = h.tolist()
            h = h.save()
        assert models.same(kept, mx.array(looked), 1e-5)
        assert models.same(again, mx.array(second), 1e-5)
        assert models.same(h, mx.array(site), 1e-5)
        if name != "of a value":  # bits, which may agree
            assert not models.same(kept, again, 1e-3)


def test_a_look_moves_no_state(chain, x):
    model = with_module(chain, Noise())
    mx.random.seed(2)
    with model.trace(x, compile=False):
        first = model.noise(model.layers[0].output).save()
    mx.random.seed(2)
    with model.trace(x, compile=False):
        model.layers[1].output.tolist()
        noise = model.noise(model.layers[0].output)
        noise.tolist()
        second = noise.save()
    assert models.same(first, second, 1e-6)


def test_a_module_called_by_hand_in_a_look_has_the_weights_of_now(chain, x):
    with chain.trace(x):
        chain.layers[1](chain.layers[0].output).tolist()
    inner = chain.module.layers[1]
    inner.weight = inner.weight * -2 + 1
    with chain.trace(x):
        value = chain.layers[1](chain.layers[0].output)
        looked = value.tolist()
        kept = value.save()
    assert models.same(kept, mx.array(looked), 1e-6)
    assert models.same(kept, inner(chain.module.layers[0](x)), 1e-5)


KEY = mx.random.key(1)


@pytest.mark.parametrize(
    "draw",
    [
        lambda h: mx.random.uniform(low=1, high=abs(h) + 3, shape=h.shape, key=KEY),
        lambda h: mx.random.uniform(low=h, shape=h.shape, key=KEY),
        lambda h: mx.random.bernoulli(p=mx.sigmoid(h), key=KEY),
        lambda h: mx.random.uniform(0, abs(h), h.shape, key=KEY),
    ],
)
def test_a_draw_with_a_key_goes_through_a_file(draw, tmp_path):
    model = models.made(nn.Linear(4, 4))
    x = mx.ones((2, 4))
    with model.trace(x) as t:
        kept = draw(model.output).save("kept")
    t.graph.save(tmp_path / "drawn")
    loaded = mg.Graph.load(tmp_path / "drawn")
    assert models.same(model.run(loaded, x)["kept"], kept)
    assert models.same(draw(model.module(x)), kept)
