"""`model.pass_`: functions of the proxied model as compiled passes."""

import threading

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import LookError
from tests.composing.helpers import FRANCE, GERMANY, ROME, apart, exact, plain
from tests.models import WIDTH, Mixed


def steered(m, alpha, v):
    m.layers[1].output[:, -1] += alpha * v
    return m.output[:, -1]


def by_trace(model, x, alpha, v):
    with model.trace(x):
        model.layers[1].output[:, -1] += alpha * v
        return model.output[:, -1].save()


def test_a_pass_is_the_trace_of_its_function(llama, tokens):
    steer = llama.pass_(steered)
    v = mx.random.normal((WIDTH,), key=mx.random.key(0))
    for alpha in (0.0, 0.5, 2, -1.5):
        assert apart(steer(tokens, alpha, v), by_trace(llama, tokens, float(alpha), v)) < 1e-4
    assert apart(steer(tokens, 2.0, v), plain(llama, tokens)[:, -1]) > 1e-2


def test_as_a_decorator_it_keeps_the_functions_name_and_doc(tied):
    @tied.pass_
    def halved(m):
        """Half the first block."""
        m.layers[0].output *= 0.5
        return m.output

    @tied.pass_(compile=False)
    def eager(m):
        m.layers[0].output *= 0.5
        return m.output

    assert halved.__name__ == "halved" and halved.__doc__ == "Half the first block."
    assert "halved" in repr(halved)
    x = mx.array([[1, 2, 3]])
    want = tied.run(mg.edit("layers.0", iv.scale(0.5)), x).output
    assert exact(eager(x), want) and apart(halved(x), want) < 1e-4


def test_new_values_of_arguments_never_compile_anew(fresh, tokens):
    steer = fresh.pass_(steered, compile=True)
    v = mx.ones(WIDTH)
    results = [steer(tokens, float(alpha), v * alpha) for alpha in range(5)]
    results.append(steer(tokens + 1, 1.0, v))
    assert fresh.compilations == 1
    assert apart(results[1], results[2]) > 1e-4
    steer(tokens[:, :3], 1.0, v)  # the control
    assert fresh.compilations == 2


def test_the_function_is_called_once_for_each_kind_of_arguments(tied, tokens):
    calls = []

    @tied.pass_
    def counted(m, alpha, mode="add", flags=()):
        calls.append((mode, flags))
        h = m.layers[1].output
        m.layers[1].output = h + alpha if mode == "add" else h * alpha
        if "twice" in flags:
            m.layers[2].output *= 2
        return m.layers[2].output

    def want(function, twice=False):
        g = mg.edit("layers.1", function)
        g = g >> mg.edit("layers.2", iv.scale(2.0)) if twice else g
        return tied.run(g >> mg.read("layers.2", name="h"), tokens)["h"]

    for _ in range(2):
        assert apart(counted(tokens, 0.5), want(lambda h: h + 0.5)) < 1e-4
        assert apart(counted(tokens, 0.7), want(lambda h: h + 0.7)) < 1e-4
        assert apart(counted(tokens, 0.5, mode="scale"), want(lambda h: h * 0.5)) < 1e-4
        got = counted(tokens, 0.5, flags=("twice",))
        assert apart(got, want(lambda h: h + 0.5, True)) < 1e-4
    assert calls == [("add", ()), ("scale", ()), ("add", ("twice",))]


def test_whole_numbers_choose_layers_and_positions(tied, tokens):
    @tied.pass_
    def patched(m, layer, position, alpha):
        m.layers[layer].output[:, position] *= alpha
        return m.output

    for layer, position in ((0, 1), (2, -1), (np.int64(0), 1)):
        graph = mg.edit(f"layers.{layer}", iv.scale(0.3), positions=position)
        want = tied.run(graph, tokens).output
        assert apart(patched(tokens, layer, position, 0.3), want) < 1e-4


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int64, np.bool_])
def test_numpy_arguments_are_those_of_mlx(tied, tokens, kind):
    @tied.pass_
    def shifted(m, v, alpha):
        m.layers[0].output += v * alpha
        return m.layers[0].output, v * 1

    for alpha in (np.float32(0.5), np.float64(1.5)):
        v = np.arange(WIDTH).astype(kind)
        got, same = shifted(tokens, v, alpha)
        want, like = shifted(tokens, mx.array(v), float(alpha))
        assert exact(got, want) and exact(same, like)


def test_an_argument_that_cannot_be_hashed_is_known_by_itself(tied, tokens):
    calls = []

    class Settings:
        __hash__ = None

        def __init__(self, factor):
            self.factor = factor

    @tied.pass_
    def scaled(m, settings):
        calls.append(settings)
        m.layers[0].output *= settings.factor
        return m.layers[0].output

    h = tied.run(mg.read("layers.0", name="h"), tokens)["h"]
    for factor in range(1, 4):  # each is gone before the next is made, its address free again
        assert apart(scaled(tokens, Settings(float(factor))), h * factor) < 1e-4
    assert len(calls) == 3
    kept = Settings(2.0)
    scaled(tokens, kept), scaled(tokens, kept)
    assert len(calls) == 4


def test_arguments_may_be_nested(tied, tokens):
    @tied.pass_
    def nested(m, settings, pairs, *, extra=None):
        for layer, v in pairs:
            m.layers[layer].output += settings["alpha"] * v
        if extra is not None:
            m.output = m.output * extra["scale"][0]
        return m.output

    v = [mx.full((WIDTH,), 0.1), np.full((WIDTH,), 0.2, np.float32)]

    def want(alpha, layers, scale):
        with tied.trace(tokens):
            for layer, value in zip(layers, v, strict=True):
                tied.layers[layer].output += alpha * mx.array(value)
            return (tied.output * scale).save()

    got = nested(tokens, {"alpha": 0.5}, [(0, v[0]), (2, v[1])], extra={"scale": (3.0,)})
    assert apart(got, want(0.5, (0, 2), 3.0)) < 1e-3


def test_results_keep_their_nesting_and_what_is_no_array(tied, tokens):
    @tied.pass_
    def several(m, label):
        h = m.layers[0].output
        m.layers[0].output = h * 2
        return {"before": h, "pair": (m.layers[0].output, [m.output[:, -1]]), "label": label,
                "n": len(m.layers), "none": None}  # fmt: skip

    for _ in range(2):  # eager, then compiled
        got = several(tokens, "run 1")
        assert list(got) == ["before", "pair", "label", "n", "none"]
        assert got["label"] == "run 1" and got["n"] == 3 and got["none"] is None
        assert type(got["pair"]) is tuple and type(got["pair"][1]) is list
        assert apart(got["pair"][0], got["before"] * 2) < 1e-4
        want = tied.run(mg.edit("layers.0", iv.scale(2.0)), tokens).output[:, -1]
        assert apart(got["pair"][1][0], want) < 1e-4


def test_an_argument_that_goes_through_comes_out_as_given(tied, tokens):
    @tied.pass_
    def through(m, alpha, v):
        return m.output[:, -1] * 0 + alpha, alpha, v, v * 2

    for alpha in (2.0, 3.0):
        v = mx.full((3,), alpha)
        first, same, array, twice = through(tokens, alpha, v)
        assert exact(array, v) and exact(twice, v * 2)
        assert float(same) == alpha and apart(first, mx.full(first.shape, alpha)) == 0


def test_a_pass_without_a_result_gives_none(tied, tokens):
    @tied.pass_
    def nothing(m):
        m.layers[0].output = 0

    assert nothing(tokens) is None


def test_saves_inside_do_not_mix_with_results(tied, tokens):
    @tied.pass_
    def noisy(m):
        m.layers[0].output.save("result0")
        return m.layers[1].output

    want = tied.run(mg.read("layers.1", name="h"), tokens)["h"]
    assert exact(noisy(tokens), want)


def test_a_pass_takes_texts_of_any_kind(tiny):
    @tiny.pass_
    def last(m, alpha):
        m.layers[2].output *= alpha
        return m.output[:, -1]

    texts = [FRANCE, ROME, GERMANY]
    batch = last(texts, 0.5)
    for row, text in enumerate(texts):
        assert apart(batch[row], last(text, 0.5)[0]) < 1e-4
        assert exact(last(text, 0.5), last(tiny.encode(text), 0.5))
    assert apart(last(FRANCE, 0.5), last(FRANCE, 1.0)) > 1e-2


def test_a_model_of_several_inputs_takes_a_tuple(x):
    mx.random.seed(1)
    model = mg.InterpretableModel(Mixed())

    @model.pass_
    def scaled(m, alpha):
        m.shared.output = m.shared.output * alpha
        return m.output

    got, want = scaled((x, x + 1), 1.0), model.module(x, x + 1)
    assert apart(got["main"], want["main"]) < 1e-5
    assert apart(got["extras"][1][0], want["extras"][1][0]) < 1e-5
    assert apart(scaled((x, x + 1), 2.0)["main"], want["main"]) > 1e-2


def test_a_pass_works_inside_gradients(tied, tokens):
    steer = tied.pass_(steered)
    v = mx.random.normal((WIDTH,), key=mx.random.key(4))

    def loss(alpha, v):
        return steer(tokens, alpha, v).square().mean()

    value, (by_alpha, by_v) = mx.value_and_grad(loss, argnums=(0, 1))(mx.array(0.5), v)
    change = (loss(mx.array(0.51), v) - loss(mx.array(0.49), v)) / 0.02
    assert float(by_alpha) == pytest.approx(float(change), rel=2e-2)
    assert apart(value, loss(0.5, v)) < 1e-4 * float(value)
    assert by_v.shape == v.shape and float(mx.abs(by_v).max()) > 1e-5
    assert float((by_v * v).sum()) * 1 == pytest.approx(float(by_alpha) * 0.5, rel=1e-3)


def test_a_pass_works_inside_vmap(tied, tokens):
    steer = tied.pass_(steered)
    v, strengths = mx.ones(WIDTH), mx.array([0.0, 0.5, 2.0])
    swept = mx.vmap(lambda alpha: steer(tokens, alpha, v))(strengths)
    for row, alpha in zip(swept, strengths.tolist(), strict=True):
        assert apart(row, steer(tokens, alpha, v)) < 1e-4
    assert apart(swept[0], swept[2]) > 1e-3


def test_a_loss_inside_the_pass_and_a_gradient_inside_it(tied, tokens):
    @tied.pass_
    def saliency(m, target):
        h = m.layers[0].output
        loss = m.output[:, -1, target[0]].sum()
        loss.backward()
        return h.grad

    target = mx.array([7])
    got = saliency(tokens, target)
    with tied.trace(tokens) as t:
        h = tied.layers[0].output
        want = t.grad(tied.output[:, -1, 7].sum(), h).save()
    assert apart(got, want) < 1e-5 and float(mx.abs(want).max()) > 1e-4
    assert apart(saliency(tokens, mx.array([8])), want) > 1e-4


def test_a_pass_of_an_edited_model_has_the_edits(tied, tokens):
    edited = tied.edit(mg.edit("layers.0", iv.scale(0.5)))
    v = mx.ones(WIDTH)
    got = edited.pass_(steered)(tokens, 1.0, v)
    with tied.trace(tokens):
        tied.layers[0].output *= 0.5
        tied.layers[1].output[:, -1] += v
        want = tied.output[:, -1].save()
    assert apart(got, want) < 1e-4
    assert apart(got, tied.pass_(steered)(tokens, 1.0, v)) > 1e-3


def test_positions_of_an_edited_model_count_in_every_padded_batch(tiny):
    edited = tiny.edit(mg.edit("layers.2", iv.zero_out, positions=0))

    @edited.pass_
    def last(m):
        return m.output[:, -1]

    for texts in ([FRANCE, ROME, GERMANY], [GERMANY, FRANCE, ROME]):
        batch = last(texts)
        for row, text in enumerate(texts):
            assert apart(batch[row], last(text)[0]) < 1e-4
            assert apart(batch[row], plain(tiny, text)[0, -1]) > 1e-3


def test_weights_stay_live(fresh, tokens):
    out = fresh.pass_(lambda m: m.output, compile=True)
    first = out(tokens)
    fresh.module.model.norm.weight = fresh.module.model.norm.weight * 2
    assert apart(out(tokens), first * 2) < 1e-3 and apart(first, first * 2) > 1e-2
    fresh.module.model.layers[0].mlp = nn.Identity()
    assert apart(out(tokens), first * 2) > 1e-2  # an exchanged module is seen too
    assert apart(out(tokens), plain(fresh, tokens)) < 1e-4


def test_a_function_that_raises_leaves_no_trace_open(tied, tokens):
    @tied.pass_
    def broken(m, alpha):
        if alpha is not None:
            raise KeyError("mine")
        return m.output

    with pytest.raises(KeyError, match="mine"):
        broken(tokens, 1.0)
    assert exact(broken(tokens, None), plain(tied, tokens))


def test_a_look_is_refused_in_a_pass(tied, tokens):
    @tied.pass_
    def looking(m):
        return m.output * float(m.layers[0].output.max())

    with pytest.raises(LookError):
        looking(tokens)


def test_passes_run_in_threads_with_values_of_their_own(tied, tokens):
    steer = tied.pass_(steered)
    graph = mg.edit("layers.*", iv.scale(mg.param("alpha"))) >> mg.read("__model_output__", "out")
    fast = tied.compile(graph)
    v = mx.ones(WIDTH)
    alphas = [0.25, 0.5, 1.0, 2.0]
    wanted = [(by_trace(tied, tokens, a, v), tied.run(graph, tokens, alpha=a, compile=False)["out"])
              for a in alphas]  # fmt: skip
    mx.eval(wanted)
    worst, errors = [], []

    def work(alpha, want):
        try:
            for _ in range(5):
                worst.append(apart(steer(tokens, alpha, v), want[0]))
                worst.append(apart(fast(tokens, alpha=alpha)["out"], want[1]))
        except BaseException as error:
            errors.append(error)

    pairs = zip(alphas, wanted, strict=True)
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert len(worst) == 40 and max(worst) < 1e-4


def test_the_graph_of_a_pass_is_a_value(tied, tokens):
    steer = tied.pass_(steered)
    v = mx.ones(WIDTH)
    graph = steer.graph(tokens, 1.0, v)
    assert graph == steer.graph(tokens, 5.0, v * 3)
    assert len(graph.writes) == 1 and len(graph.saves) == 1
