"""Traces inside `mx.grad`: the documents' gradient example, with respect to what is a number."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlxgraph import interventions as iv
from mlxgraph.errors import TokenGradientError
from tests.models import same


def numeric(fn, x, at, step=1e-2):
    """The symmetric difference quotient of `fn` at one entry."""
    up, down = mx.array(x), mx.array(x)
    up[at] += step
    down[at] -= step
    return (fn(up) - fn(down)).item() / (2 * step)


def test_a_float_inputs_gradient_through_a_trace(chain, x):
    with chain.trace(x * 0.5):
        target = chain.layers[1].output.save()

    def loss(value):
        with chain.trace(value):
            act = chain.layers[1].output.save()
        return mx.mean((act - target) ** 2)

    gradient = mx.grad(loss)(x)
    assert gradient.shape == x.shape and mx.max(mx.abs(gradient)).item() > 1e-4
    for at in ((0, 0, 0), (1, 3, 5), (0, 2, 1)):
        assert gradient[at].item() == pytest.approx(numeric(loss, x, at), rel=2e-2, abs=1e-5)


def test_a_token_embeddings_gradient_through_a_trace(llama, tokens):
    with llama.trace(tokens) as trace:
        pass
    embedded = trace.activations["model.embed_tokens"]
    target = trace.activations["layers.2"] * 0.5

    def loss(value):
        with llama.trace(tokens, interventions={"model.embed_tokens": iv.replace_with(value)}):
            act = llama.layers[2].output.save()
        return mx.mean((act - target) ** 2)

    gradient = mx.grad(loss)(embedded)
    assert gradient.shape == embedded.shape
    for at in ((0, 0, 0), (1, 5, 31), (0, 3, 7)):
        assert gradient[at].item() == pytest.approx(numeric(loss, embedded, at), rel=5e-2, abs=1e-4)


def test_a_steering_vectors_gradient(llama, tokens):
    def score(vector):
        with llama.trace(tokens, interventions={"layers.1": iv.add_vector(vector)}):
            logits = llama.output[:, -1, 7].save()
        return mx.sum(logits)

    vector = mx.zeros((32,))
    value, gradient = mx.value_and_grad(score)(vector)
    assert value.item() == pytest.approx(mx.sum(llama(tokens)[:, -1, 7]).item(), rel=1e-4)
    better = score(vector + 0.05 * gradient / mx.linalg.norm(gradient))
    assert better.item() > value.item()
    for at in (0, 13):
        assert gradient[at].item() == pytest.approx(numeric(score, vector, at), rel=3e-2, abs=1e-3)


def test_the_gradient_compiled_and_eager_agree(chain, x):
    def loss(mode):
        def of(value):
            with chain.trace(value, compile=mode):
                act = chain.layers[2].output.save()
            return mx.sum(act**2)

        return of

    assert same(mx.grad(loss(True))(x), mx.grad(loss(False))(x), 1e-5)


def test_token_ids_have_no_gradient(llama, tokens):
    def loss(ids):
        with llama.trace(ids):
            act = llama.layers[1].output.save()
        return mx.sum(act)

    with pytest.raises(TokenGradientError, match="embedding's output") as caught:
        mx.grad(loss)(tokens)
    assert isinstance(caught.value, TypeError)


def test_no_trace_of_a_transformation_stays_behind(llama, tokens):
    before = llama(tokens)

    def score(vector):
        with llama.trace(tokens, interventions={"layers.1": iv.add_vector(vector)}):
            return mx.sum(llama.output).save()

    with pytest.raises(ValueError, match="float was returned"):  # MLX's own refusal
        mx.grad(lambda v: score(v).item())(mx.zeros((32,)))
    assert same(llama(tokens), before)
    with llama.trace(tokens, interventions={"layers.1": iv.add_vector(mx.ones((32,)))}):
        edited = llama.output.save()
    assert not same(edited, before, 1e-2)
