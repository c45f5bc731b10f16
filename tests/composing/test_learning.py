"""Params under `mx.grad`, `mx.value_and_grad` and `mx.vmap`: edits that are learned and swept."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from tests.composing.helpers import FRANCE, apart
from tests.models import WIDTH

OUT = mg.read("__model_output__", name="out")


def loss_of(model, tokens):
    """A graph that steers and saves a number, and the same written by hand."""
    with model.trace(tokens) as t:
        model.layers[1].output[:, -1] += mg.param("alpha") * mg.param("v", shape=(WIDTH,))
        model.output[:, -1].square().mean().save("loss")

    def by_hand(alpha, v):
        inner = model.module.model
        h = inner.embed_tokens(tokens)
        mask = "causal"
        for k, layer in enumerate(inner.layers):
            h = layer(h, mask, None)
            if k == 1:
                h = mx.concatenate([h[:, :-1], h[:, -1:] + alpha * v], axis=1)
        h = inner.norm(h)
        head = inner.embed_tokens.as_linear if model.module.args.tie_word_embeddings else (
            model.module.lm_head
        )  # fmt: skip
        return head(h)[:, -1].square().mean()

    return t.graph, by_hand


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_by_params_are_those_of_the_forward_written_by_hand(llama, tokens, compiled):
    graph, by_hand = loss_of(llama, tokens)
    v = mx.random.normal((WIDTH,), key=mx.random.key(1))

    def loss(alpha, v):
        return llama.run(graph, tokens, alpha=alpha, v=v, compile=compiled)["loss"]

    value, grads = mx.value_and_grad(loss, argnums=(0, 1))(mx.array(0.7), v)
    wanted, by = mx.value_and_grad(by_hand, argnums=(0, 1))(mx.array(0.7), v)
    assert apart(value, wanted) < 1e-4 * float(wanted)
    for got, want in zip(grads, by, strict=True):
        assert got.shape == want.shape and apart(got, want) < 1e-4 * float(mx.abs(want).max())
    assert float(mx.abs(by[0])) > 1e-3


def test_a_gradient_by_a_number_is_that_of_finite_differences(tied, tokens):
    graph, _ = loss_of(tied, tokens)
    v = mx.random.normal((WIDTH,), key=mx.random.key(1))
    fast = tied.compile(graph)

    def loss(alpha):
        return fast(tokens, alpha=alpha, v=v)["loss"]

    slope = (loss(0.71) - loss(0.69)) / 0.02
    assert float(mx.grad(loss)(mx.array(0.7))) == pytest.approx(float(slope), rel=2e-2)


def test_gradients_go_through_edits_by_pattern(tied, tokens):
    graph = mg.edit("layers.*.mlp", iv.scale(mg.param("alpha"))) >> OUT
    fast = tied.compile(graph)

    def loss(alpha):
        return fast(tokens, alpha=alpha)["out"].square().mean()

    slope = (loss(1.01) - loss(0.99)) / 0.02
    assert float(mx.grad(loss)(mx.array(1.0))) == pytest.approx(float(slope), rel=2e-2)
    assert abs(float(slope)) > 1e-3


def test_learning_steps_do_not_compile_anew(fresh, tokens):
    graph, _ = loss_of(fresh, tokens)
    fast = fresh.compile(graph)
    step = mx.compile(mx.value_and_grad(lambda v: fast(tokens, alpha=1.0, v=v)["loss"]))
    v, losses = mx.zeros(WIDTH), []
    for _ in range(6):
        value, slope = step(v)
        v = v - 0.05 * slope
        losses.append(float(value))
    assert losses[-1] < losses[0]
    assert fresh.compilations == 1


def test_a_steering_vector_is_learned_in_ten_lines(tiny):
    """Ten lines, from a graph with a hole to a vector that changes the model's answer."""
    rome = tiny.encode(" Rome")[-1]
    steer = mg.edit("layers.3", iv.add_vector(mg.param("v", shape=128)), positions=-1)
    fast = tiny.compile(steer >> OUT)
    v, optimizer = mx.zeros(128), optim.Adam(0.1)

    def loss(v):
        return nn.losses.cross_entropy(fast(FRANCE, v=v)["out"][:, -1], mx.array([rome])).mean()

    for _ in range(20):
        v = optimizer.apply_gradients({"v": mx.grad(loss)(v)}, {"v": v})["v"]

    def answer(graph, **values):
        return tiny.decode([int(tiny.run(graph, FRANCE, **values)["out"][0, -1].argmax())])

    assert answer(steer >> OUT, v=mx.zeros(128)) == " Paris"
    assert answer(steer >> OUT, v=v) == " Rome"


def train(step, values, rate, steps):
    """Adam on a dictionary of arrays; the losses on the way."""
    optimizer, losses = optim.Adam(rate), []
    for _ in range(steps):
        value, slopes = step(values)
        values = optimizer.apply_gradients(slopes, values)
        mx.eval(values)
        losses.append(float(value))
    return values, losses


def test_a_low_rank_representation_edit_is_learned(tiny):
    """LoReFT: h + (W h + b - R h) R^T, with orthonormal rows R (arXiv:2404.03592)."""
    rank, width = 2, 128
    R, W = mg.param("R", shape=(rank, width)), mg.param("W", shape=(rank, width))
    b = mg.param("b", shape=rank)

    def loreft(h):
        return h + (h @ W.T + b - h @ R.T) @ R

    graph = mg.edit("layers.3", loreft, positions=-1) >> OUT
    texts = ["The capital of France is", "The capital of Germany is"]
    wrong = mx.array([tiny.encode(t)[-1] for t in (" Rome", " Madrid")])
    fast = tiny.compile(graph)

    def orthonormal(R):
        return mx.linalg.qr(R.T, stream=mx.cpu)[0].T

    def loss(values):
        out = fast(texts, **values)["out"]
        return nn.losses.cross_entropy(out[:, -1], wrong).mean()

    R0 = orthonormal(mx.random.normal((rank, width), key=mx.random.key(0)))
    values = {"R": R0, "W": mx.array(R0), "b": mx.zeros(rank)}
    clean = tiny.run(OUT, texts)["out"]
    assert apart(fast(texts, **values)["out"], clean) < 1e-3  # W = R, b = 0 changes nothing

    def step(values):
        return mx.value_and_grad(loss)(values)

    before = loss(values)
    for _ in range(15):  # R is put back on the orthonormal frames after every step
        values, losses = train(step, values, 0.05, 2)
        values["R"] = orthonormal(values["R"])
    assert losses[-1] < 0.5 * float(before)
    frame = values["R"] @ values["R"].T
    assert apart(frame, mx.eye(rank)) < 1e-4
    edited = fast(texts, **values)["out"][:, -1].argmax(-1)
    assert edited.tolist() == wrong.tolist() != clean[:, -1].argmax(-1).tolist()


def rotated_swap(donor, mask="mask", site="layers.3"):
    """DAS: swap directions of a rotated space with a donor's (arXiv:2303.02536)."""
    width = donor.shape[-1]
    Q, chosen = mg.param("Q", shape=(width, width)), mg.param(mask, shape=width)

    def swap(h):
        return h + ((donor @ Q - h @ Q) * chosen) @ Q.T

    return mg.edit(site, swap, positions=-1)


def basis(k, width=128):
    return mx.linalg.qr(mx.random.normal((width, width), key=mx.random.key(k)), stream=mx.cpu)[0]


def last_position(model, text):
    return model.run(mg.read("layers.3", name="h"), text)["h"][:, -1]


def test_a_swap_of_the_whole_rotated_space_is_a_patch(tiny):
    """Law 21: full rank = patching, nothing = no edit, two halves = the whole."""
    donor = last_position(tiny, "The capital of Italy is")
    swap, Q = rotated_swap(donor) >> OUT, basis(0)
    half = (mx.arange(128) < 64).astype(mx.float32)
    patch = mg.edit("layers.3", iv.replace_with(donor), positions=-1) >> OUT
    want, clean = tiny.run(patch, FRANCE)["out"], tiny.run(OUT, FRANCE)["out"]
    assert apart(tiny.run(swap, FRANCE, Q=Q, mask=mx.ones(128))["out"], want) < 1e-3
    assert apart(tiny.run(swap, FRANCE, Q=Q, mask=mx.zeros(128))["out"], clean) < 1e-3
    both = rotated_swap(donor, "first") >> rotated_swap(donor, "second") >> OUT
    assert apart(tiny.run(both, FRANCE, Q=Q, first=half, second=1 - half)["out"], want) < 1e-3
    one = tiny.run(swap, FRANCE, Q=Q, mask=half)["out"]
    assert apart(one, want) > 0.1 and apart(one, clean) > 0.1


def test_a_rotated_subspace_swap_is_learned(tiny):
    """Four directions of a learned rotation carry the answer from one text to another."""
    k, width = 4, 128
    graph = rotated_swap(last_position(tiny, "The capital of Italy is")) >> OUT
    rome = mx.array([tiny.encode(" Rome")[-1]])
    mask = (mx.arange(width) < k).astype(mx.float32)
    fast = tiny.compile(graph)

    def rotation(A):  # Cayley: orthogonal for every A, and its gradient is simple
        S = A - A.T
        eye = mx.eye(width)
        return (eye - S) @ mx.linalg.inv(eye + S, stream=mx.cpu)

    def loss(A):
        # An inverse has no gradient in MLX: one step of Newton around its value has.
        S = A - A.T
        eye = mx.eye(width)
        X = mx.stop_gradient(mx.linalg.inv(eye + S, stream=mx.cpu))
        Q = (eye - S) @ (X @ (2 * eye - (eye + S) @ X))
        return nn.losses.cross_entropy(fast(FRANCE, Q=Q, mask=mask)["out"][:, -1], rome).mean()

    A = 0.01 * mx.random.normal((width, width), key=mx.random.key(3))
    before = float(loss(A))
    step = mx.value_and_grad(lambda values: loss(values["A"]))
    values, losses = train(step, {"A": A}, 0.02, 50)
    assert losses[-1] < 0.5 * before
    Q = rotation(values["A"])
    assert apart(Q @ Q.T, mx.eye(width)) < 1e-3
    answer = tiny.run(graph, FRANCE, Q=Q, mask=mask)["out"][0, -1].argmax()
    assert int(answer) == rome.item()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_sweep_over_strengths_by_vmap_is_the_loop(tied, tokens, compiled):
    graph, _ = loss_of(tied, tokens)
    v = mx.random.normal((WIDTH,), key=mx.random.key(2))
    strengths = mx.linspace(-2, 2, 5)

    def loss(alpha):
        return tied.run(graph, tokens, alpha=alpha, v=v, compile=compiled)["loss"]

    swept = mx.vmap(loss)(strengths)
    looped = mx.stack([loss(float(alpha)) for alpha in strengths.tolist()])
    assert apart(swept, looped) < 1e-4 * float(mx.abs(looped).max())
    assert apart(swept[0], swept[-1]) > 1e-3


def test_vmap_over_vectors_and_outputs(tied, tokens):
    graph = mg.edit("layers.1", iv.add_vector(mg.param("v", shape=WIDTH))) >> OUT
    fast = tied.compile(graph)
    vectors = mx.random.normal((3, WIDTH), key=mx.random.key(5))
    swept = mx.vmap(lambda v: fast(tokens, v=v)["out"])(vectors)
    for row, v in zip(swept, vectors, strict=True):
        assert apart(row, fast(tokens, v=v)["out"]) < 1e-4
    slopes = mx.vmap(mx.grad(lambda v: fast(tokens, v=v)["out"].mean()))(vectors)
    assert slopes.shape == vectors.shape
    one = mx.grad(lambda v: fast(tokens, v=v)["out"].mean())(vectors[1])
    assert apart(slopes[1], one) < 1e-5 and float(mx.abs(one).max()) > 1e-6


def test_a_pass_works_inside_a_users_own_compiled_function(tied, tokens):
    fast = tied.compile(mg.edit("layers.1", iv.scale(mg.param("alpha"))) >> OUT)
    outer = mx.compile(lambda alpha: fast(tokens, alpha=alpha)["out"] * 2)
    for alpha in (0.5, 1.5):
        want = fast(tokens, alpha=alpha)["out"] * 2
        assert apart(outer(mx.array(alpha)), want) < 1e-4


def test_a_trace_works_inside_a_gradient(tied, tokens):
    def loss(v):
        with tied.trace(tokens):
            tied.layers[1].output += v
            out = tied.output.square().mean().save()
        return out

    v = mx.zeros(WIDTH)
    slope = mx.grad(loss)(v)
    step = 1e-2 * mx.ones(WIDTH)
    change = (loss(v + step) - loss(v - step)) / 2
    assert float((slope * step).sum()) == pytest.approx(float(change), rel=5e-2)
    again = mx.grad(loss)(v)  # compiled by now
    assert apart(again, slope) < 1e-4 * float(mx.abs(slope).max())
