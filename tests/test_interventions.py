"""Interventions: plain functions of one array, the same on arrays, on proxies and in the dict."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import AlignError, InterventionError, ShapeError
from tests.models import WIDTH, same

VECTOR = mx.arange(WIDTH, dtype=mx.float32) / WIDTH

# name -> (intervention, the same thing by hand)
CASES = {
    "zero_out": (iv.zero_out, lambda x: x * 0),
    "scale": (iv.scale(0.5), lambda x: x * 0.5),
    "scale by array": (iv.scale(VECTOR), lambda x: (x * VECTOR).astype(x.dtype)),
    "add_vector": (iv.add_vector(VECTOR), lambda x: (x + VECTOR).astype(x.dtype)),
    "add list": (iv.add_vector([1.0] * WIDTH), lambda x: x + 1),
    "add numpy": (iv.add_vector(np.ones(WIDTH)), lambda x: x + 1),
    "replace number": (iv.replace_with(2.0), lambda x: mx.full(x.shape, 2.0, dtype=x.dtype)),
    "replace row": (
        iv.replace_with(VECTOR),
        lambda x: mx.broadcast_to(VECTOR, x.shape).astype(x.dtype),
    ),
    "clamp": (iv.clamp(-0.1, 0.2), lambda x: mx.clip(x, -0.1, 0.2)),
    "clamp above": (iv.clamp(max_val=0.1), lambda x: mx.minimum(x, 0.1)),
    "clamp below": (iv.clamp(min_val=0.1), lambda x: mx.maximum(x, 0.1)),
    "composed": (
        iv.compose().add(iv.scale(2.0)).add(iv.clamp(-1.0, 1.0)).build(),
        lambda x: mx.clip(x * 2.0, -1.0, 1.0),
    ),
    "own": (lambda x: mx.tanh(x), lambda x: mx.tanh(x)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_on_arrays_it_is_the_formula_and_keeps_the_dtype(name, dtype):
    mx.random.seed(0)
    x = mx.random.normal((2, 6, WIDTH)).astype(dtype)
    kept = mx.array(x)
    intervention, by_hand = CASES[name]
    assert same(intervention(x), by_hand(x))
    assert same(x, kept), "the argument was changed"


@pytest.mark.parametrize("name", CASES)
def test_dict_block_and_graph_agree_and_change_the_output(tied, tokens, name):
    intervention, by_hand = CASES[name]
    with tied.trace(tokens):
        plain = tied.output.save()
    with tied.trace(tokens, interventions={"layers.1": intervention}):
        from_dict = tied.output.save()
    with tied.trace(tokens):
        tied.layers[1].output = intervention(tied.layers[1].output)
        in_block = tied.output.save()
    with tied.trace(tokens, graph=mg.edit("layers.1", intervention)):
        from_graph = tied.output.save()
    with tied.trace(tokens):
        tied.layers[1].output = by_hand(tied.layers[1].output)
        expected = tied.output.save()
    assert same(from_dict, in_block) and same(from_dict, from_graph)
    assert same(from_dict, expected, 1e-5)
    assert not same(plain, from_dict, 1e-4)


def test_a_float32_vector_leaves_a_bfloat16_stream_bfloat16(fresh, tokens):
    fresh.module.set_dtype(mx.bfloat16)
    with fresh.trace(tokens, interventions={"layers.1": iv.add_vector(VECTOR)}):
        stream = fresh.layers[1].output.save()
        logits = fresh.output.save()
    assert stream.dtype == logits.dtype == mx.bfloat16


def test_zero_out_clears_what_times_zero_would_not():
    assert not mx.any(iv.zero_out(mx.array([mx.inf, mx.nan]))).item()
    assert same(iv.replace_with(3.0)(mx.array([mx.inf, 1.0])), mx.array([3.0, 3.0]))


def test_integers_stay_integers():
    assert same(iv.scale(0.5)(mx.array([4, 6])), mx.array([2, 3]))


# -- other numbers, other lengths ----------------------------------------------------------------


def test_another_number_does_not_compile_again(fresh, tokens):
    def run(number):
        edits = {
            "layers.0": iv.scale(number),
            "layers.1": iv.clamp(-number, number),
            "layers.2.self_attn": iv.replace_with(number),
            "layers.0.mlp": iv.noise(number),
            "layers.1.mlp": iv.add_vector(VECTOR * number),
        }
        with fresh.trace(tokens, interventions=edits):
            return fresh.output.save()

    first = run(0.5), run(0.6)
    compiled = fresh.compilations
    assert compiled == 1
    assert not same(run(0.7), first[1], 1e-3), "the number must matter"
    assert fresh.compilations == compiled


def test_a_graph_with_noise_or_numbers_fits_any_length(tied, tokens):
    edits = {"layers.1": iv.noise(0.1), "layers.2": iv.replace_with(1.0)}
    with tied.trace(tokens, interventions=edits) as t:
        tied.output.save("logits")
    longer = mx.concatenate([tokens, tokens], axis=1)
    assert tied.run(t.graph, longer).saves["logits"].shape[1] == 2 * tokens.shape[1]


def test_a_param_stands_for_a_number(tied, tokens):
    graph = mg.edit("layers.1", iv.scale(mg.param("alpha"))) >> mg.read("", name="logits")
    for alpha in (0.0, 2.5):
        with tied.trace(tokens, interventions={"layers.1": iv.scale(alpha)}):
            expected = tied.output.save()
        assert same(tied.run(graph, tokens, alpha=alpha).saves["logits"], expected, 1e-6)


# -- noise ---------------------------------------------------------------------------------------


def test_noise_is_normal_with_the_given_deviation():
    mx.random.seed(1)
    drawn = iv.noise(2.0)(mx.zeros((400, 400)))
    assert abs(mx.mean(drawn).item()) < 0.03
    assert abs(mx.std(drawn).item() - 2.0) < 0.03
    within = mx.mean((mx.abs(drawn) < 2.0).astype(mx.float32)).item()
    assert abs(within - 0.6827) < 0.01


def test_noise_is_drawn_anew_and_follows_the_seed(tied, tokens):
    def run():
        with tied.trace(tokens, interventions={"layers.1": iv.noise(0.2)}):
            return tied.output.save()

    mx.random.seed(5)
    drawn = [run() for _ in range(4)]  # the later ones compiled
    assert not any(same(drawn[0], other) for other in drawn[1:])
    mx.random.seed(5)
    assert all(same(run(), before, 1e-5) for before in drawn)


def test_gradients_pass_through_noise(tied, tokens):
    def score(vector):
        edit = iv.compose(iv.add_vector(vector), iv.noise(0.1)).build()
        with tied.trace(tokens, interventions={"layers.1": edit}):
            score = tied.output[:, -1, 7].save()
        return mx.sum(score)

    gradient = mx.grad(score)(mx.zeros((WIDTH,)))
    assert not mx.any(mx.isnan(gradient)).item() and mx.linalg.norm(gradient).item() > 1e-3


def test_two_noises_of_one_trace_differ(tied, tokens):
    with tied.trace(tokens):
        zeros = mx.zeros_like(tied.layers[0].output)
        first, second = iv.noise(1.0)(zeros).save(), iv.noise(1.0)(zeros).save()
    assert not same(first, second, 0.1)


# -- shapes --------------------------------------------------------------------------------------


def test_wrong_shapes_raise_with_both_shapes_the_site_and_the_line(tied, tokens):
    with pytest.raises(ShapeError) as caught, tied.trace(tokens):
        tied.layers[1].output = iv.add_vector(mx.ones((WIDTH + 1,)))(tied.layers[1].output)
    text = str(caught.value)
    for part in ("layers.1.output", f"(2, 6, {WIDTH})", f"({WIDTH + 1},)", "test_interventions.py"):
        assert part in text
    with pytest.raises(ValueError, match="layers.2"):
        edits = {"layers.2": iv.replace_with(mx.ones((2, 4, WIDTH)))}
        tied.trace(tokens, interventions=edits).__enter__()


@pytest.mark.parametrize("make", [iv.scale, iv.add_vector, iv.replace_with, iv.clamp])
def test_an_array_may_not_make_the_activation_larger(make):
    x = mx.ones((1, 4, 8))
    assert make(mx.ones((8,)))(x).shape == x.shape
    for shape in ((3,), (4, 4, 8), (1, 1, 4, 8)):
        with pytest.raises(ShapeError):
            make(mx.ones(shape))(x)


def test_another_length_raises_and_says_what_to_write():
    with pytest.raises(ShapeError, match="align='start'"):
        iv.replace_with(mx.ones((1, 3, 2)))(mx.zeros((1, 5, 2)))


@pytest.mark.parametrize(
    ("align", "given", "expected"),
    [
        ("start", 3, [1, 2, 3, 0, 0]),
        ("end", 3, [0, 0, 1, 2, 3]),
        ("start", 7, [1, 2, 3, 4, 5]),
        ("end", 7, [3, 4, 5, 6, 7]),
        ("start", 5, [1, 2, 3, 4, 5]),
        ("strict", 5, [1, 2, 3, 4, 5]),
        ("end", 1, [1, 1, 1, 1, 1]),
    ],
)
def test_alignment_replaces_the_positions_that_both_have(align, given, expected):
    value = mx.broadcast_to(mx.arange(1, given + 1)[None, :, None], (1, given, 2))
    x = mx.zeros((1, 5, 2))
    edited = iv.replace_with(value, align=align)(x)
    assert edited[0, :, 0].tolist() == expected
    assert edited.dtype == mx.float32 and not mx.any(x).item()


@pytest.mark.parametrize("align", ["start", "end"])
def test_alignment_works_on_proxies(tied, tokens, align):
    value = mx.ones((1, 4, WIDTH))
    with tied.trace(tokens):
        plain = tied.layers[1].output.save()
    with tied.trace(tokens, interventions={"layers.1": iv.replace_with(value, align=align)}):
        edited = tied.layers[1].output.save()
    assert same(edited, iv.replace_with(value, align=align)(plain), 1e-6)


def test_alignment_needs_a_sequence_axis():
    with pytest.raises(ShapeError, match="no sequence axis"):
        iv.replace_with(mx.ones((1, 3, 2)), align="end")(mx.zeros((2,)))


# -- arguments -----------------------------------------------------------------------------------


def test_arguments_without_meaning_raise_at_once():
    with pytest.raises(InterventionError, match="both are None"):
        iv.clamp()
    with pytest.raises(InterventionError, match=r"clamp\(1.0, 2.0\)"):
        iv.clamp(2.0, 1.0)
    with pytest.raises(InterventionError, match="not negative"):
        iv.noise(-1.0)
    with pytest.raises(AlignError, match="'start'"):
        iv.replace_with(1.0, align="middle")
    with pytest.raises(InterventionError, match="no function"):
        iv.compose().add(0.5)


# -- composing -----------------------------------------------------------------------------------


def test_a_real_activation_is_not_given_the_real_part_of_complex_numbers():
    with pytest.raises(InterventionError, match="real part alone"):
        iv.scale(1j)(mx.ones(3))
    assert iv.scale(1j)(mx.array([2 + 0j])).tolist() == [2j]


def test_composition_applies_in_the_order_added():
    x = mx.array([1.0, -3.0])
    one = iv.compose().add(iv.scale(2.0)).add(iv.clamp(-1.0, 1.0)).build()
    other = iv.compose().add(iv.clamp(-1.0, 1.0)).add(iv.scale(2.0)).build()
    assert one(x).tolist() == [1.0, -1.0] and other(x).tolist() == [2.0, -2.0]


def test_add_chains_and_build_keeps_what_was_there():
    composer = iv.compose()
    assert composer.add(iv.scale(2.0)) is composer
    built = composer.build()
    composer.add(iv.zero_out)
    x = mx.array([1.0])
    assert built(x).item() == 2.0 and composer.build()(x).item() == 0.0
    assert len(composer) == 2


def test_an_empty_composition_changes_nothing():
    x = mx.array([1.0, 2.0])
    assert same(iv.compose().build()(x), x)


def test_names_say_what_they_do():
    built = iv.compose(iv.scale(0.5), iv.zero_out).build()
    assert built.__name__ == "compose(scale(0.5), zero_out)"
    assert iv.add_vector(VECTOR).__name__ == f"add_vector(array({WIDTH},))"
