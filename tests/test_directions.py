"""Interventions on directions and lengths agree with numpy, and obey laws 20 and 21."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import InterventionError, ShapeError
from tests.models import WIDTH, same

NEAR = 1e-5


def drawn(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def floats(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32)).astype(np.float64)


def projector(rows: mx.array) -> np.ndarray:
    """Onto what some rows span, by the normal equations."""
    r = floats(rows).reshape(-1, rows.shape[-1])
    return r.T @ np.linalg.pinv(r @ r.T) @ r


def apart(a: mx.array, b: np.ndarray) -> float:
    return float(np.abs(floats(a) - b).max() / np.abs(b).max())


X = drawn(2, 5, WIDTH, seed=7)
ROWS = {
    "one": drawn(WIDTH),
    "one row": drawn(1, WIDTH),
    "three rows": drawn(3, WIDTH),
    "rows that are no basis": mx.concatenate([drawn(2, WIDTH), drawn(2, WIDTH).sum(0)[None]]),
    "small": 1e-12 * drawn(WIDTH),
}


@pytest.mark.parametrize("name", ROWS)
def test_projecting_out_is_the_complement(name):
    rows = ROWS[name]
    project = iv.project_out(rows)
    want = floats(X) @ (np.eye(WIDTH) - projector(rows * (1e12 if name == "small" else 1)))
    assert apart(project(X), want) < NEAR
    assert apart(project(project(X)), want) < NEAR, "twice is not once"
    assert apart(X, want) > 0.05


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_in_half_precision_it_is_rounded_once(dtype):
    x = X.astype(dtype)
    project = iv.project_out(drawn(WIDTH))
    assert project(x).dtype == dtype
    assert same(project(x), project(x.astype(mx.float32)).astype(dtype))


def test_a_subspace_swap_is_numpys():
    rows, source = drawn(3, WIDTH), drawn(2, 5, WIDTH, seed=9)
    into = projector(rows)
    want = floats(X) + (floats(source) - floats(X)) @ into
    assert apart(iv.swap_subspace(rows, source)(X), want) < NEAR


def test_all_of_the_space_is_a_patch_and_none_of_it_nothing():
    source = drawn(2, 5, WIDTH, seed=9)
    whole, none = drawn(WIDTH, WIDTH), mx.zeros((0, WIDTH))
    assert apart(iv.swap_subspace(whole, source)(X), floats(source)) < NEAR
    assert same(iv.swap_subspace(none, source)(X), X)
    assert apart(iv.swap_subspace(whole[:3], source)(X), floats(source)) > 0.1


def test_complements_compose_to_the_whole():
    basis = mx.array(np.linalg.qr(floats(drawn(WIDTH, WIDTH)))[0].T.astype(np.float32))
    source = drawn(WIDTH, seed=9)
    one, other = (iv.swap_subspace(rows, source) for rows in (basis[:4], basis[4:]))
    assert apart(other(one(X)), np.broadcast_to(floats(source), X.shape)) < NEAR


def test_rescaling_changes_the_length_alone():
    made = iv.rescale(3.0)(X)
    lengths = np.linalg.norm(floats(made), axis=-1)
    assert np.abs(lengths - 3).max() < NEAR
    cosines = (floats(made) * floats(X)).sum(-1) / lengths / np.linalg.norm(floats(X), axis=-1)
    assert np.abs(cosines - 1).max() < NEAR
    before = drawn(2, 5, WIDTH, seed=3)
    matched = np.linalg.norm(floats(iv.rescale(like=before)(X)), axis=-1)
    assert np.abs(matched - np.linalg.norm(floats(before), axis=-1)).max() < 1e-4
    each = iv.rescale(mx.arange(1, 6)[:, None])(X)
    assert np.abs(np.linalg.norm(floats(each), axis=-1) - np.arange(1, 6)).max() < NEAR
    assert same(iv.rescale(2.0)(mx.zeros((1, 2, WIDTH))), mx.zeros((1, 2, WIDTH)))
    assert iv.rescale(2.0)(X.astype(mx.bfloat16)).dtype == mx.bfloat16


CASES = {
    "project_out": iv.project_out(drawn(WIDTH)),
    "project_out rows": iv.project_out(drawn(2, WIDTH)),
    "swap_subspace": iv.swap_subspace(drawn(2, WIDTH), drawn(WIDTH, seed=5)),
    "rescale": iv.rescale(2.0),
    "rescale like": iv.rescale(like=drawn(WIDTH, seed=5)),
}


@pytest.mark.parametrize("name", CASES)
def test_dict_block_graph_and_file_agree(tied, tokens, name, tmp_path):
    function = CASES[name]
    graph = mg.edit("layers.1", function)
    graph.save(tmp_path / "g.mlxg")
    loaded = mg.Graph.load(tmp_path / "g.mlxg")
    with tied.trace(tokens, interventions={"layers.1": function}):
        from_dict = tied.output.save()
    with tied.trace(tokens):
        tied.layers[1].output = function(tied.layers[1].output)
        in_block = tied.output.save()
    read = mg.read("__model_output__", name="y")
    assert same(from_dict, in_block)
    assert same(from_dict, tied.run(graph >> read, tokens)["y"])
    assert loaded == graph
    assert same(from_dict, tied.run(loaded >> read, tokens)["y"])
    assert not same(from_dict, tied(tokens), 1e-4)


def test_values_of_the_block_and_params_may_be_given(tied, tokens):
    v = drawn(WIDTH)
    with tied.trace(tokens):
        earlier = tied.layers[0].output
        h = tied.layers[1].output
        tied.layers[1].output = iv.project_out(earlier[0, -1])(h)
        dots = (tied.layers[1].output @ earlier[0, -1]).save()
        own = (h @ earlier[0, -1]).save()
    assert mx.abs(dots).max().item() < NEAR * mx.abs(own).max().item()
    graph = mg.edit("layers.1", iv.project_out(mg.param("v", shape=(WIDTH,))))
    read = mg.read("layers.1", name="h")
    fixed = tied.run(mg.edit("layers.1", iv.project_out(v)) >> read, tokens)["h"]
    assert same(tied.run(graph >> read, tokens, v=v)["h"], fixed, 1e-5)
    with tied.trace(tokens):
        before = tied.layers[1].output
        tied.layers[1].output = iv.rescale(like=before)(before + 3 * v)
        lengths = mx.linalg.norm(tied.layers[1].output, axis=-1).save()
        wanted = mx.linalg.norm(before, axis=-1).save()
    assert same(lengths, wanted, 1e-4)
    with tied.trace(tokens):
        first, last = tied.layers[0].output, tied.layers[1].output
        tied.layers[1].output = iv.swap_subspace(mx.eye(WIDTH), first)(last)
        got, want = tied.layers[1].output.save(), first.save()
    assert same(got, want, 1e-4)


WRONG = {
    "zeros": (lambda: iv.project_out(mx.zeros(WIDTH)), InterventionError, "direction of zeros"),
    "none": (lambda: iv.project_out(mx.zeros((0, WIDTH))), InterventionError, "no directions"),
    "nan": (lambda: iv.project_out(mx.array([1.0, mx.nan])), InterventionError, "not finite"),
    "number": (lambda: iv.project_out(2.0), ShapeError, "not a number"),
    "text": (lambda: iv.project_out("v"), InterventionError, "takes a number, an array"),
    "three axes": (lambda: iv.project_out(mx.ones((1, 1, 3))), ShapeError, r"\(number, width\)"),
    "rows to come": (
        lambda: iv.project_out(mg.param("v", shape=(2, WIDTH))),
        ShapeError,
        "orthonormal",
    ),
    "width": (lambda: iv.project_out(mx.ones(3))(X), ShapeError, f"width {WIDTH}"),
    "swap width": (lambda: iv.swap_subspace(mx.ones(3), X)(X), ShapeError, "width 3"),
    "swap shape": (
        lambda: iv.swap_subspace(mx.ones(WIDTH), mx.ones((3, WIDTH)))(X),
        ShapeError,
        "given a part",
    ),
    "swap to come": (
        lambda: iv.swap_subspace(mg.param("R", shape=(2, WIDTH)), X),
        InterventionError,
        "@ R.T",
    ),
    "both": (lambda: iv.rescale(2.0, X), InterventionError, "iv.rescale"),
    "neither": (lambda: iv.rescale(), InterventionError, "iv.rescale"),
    "negative": (lambda: iv.rescale(-2.0), InterventionError, "negative"),
    "norms": (lambda: iv.rescale(mx.ones(WIDTH))(X), ShapeError, "one number for each position"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_told(name):
    call, kind, said = WRONG[name]
    with pytest.raises(kind, match=said) as caught:
        call()
    assert "\n" in str(caught.value)


def test_a_mistake_ends_at_the_users_line(tied, tokens):
    with pytest.raises(ShapeError, match="layers.1") as caught:
        with tied.trace(tokens, interventions={"layers.1": iv.project_out(mx.ones(3))}):
            pass
    assert caught.traceback[-1].path.name == "test_directions.py"
    with pytest.raises(InterventionError) as other:
        iv.project_out(mx.zeros(WIDTH))
    assert other.traceback[-1].path.name == "test_directions.py"


def test_a_mistake_with_plain_arrays_ends_at_the_users_line():
    for wrong in (iv.project_out(mx.ones((4,))), iv.rescale(mx.ones((3,)))):
        with pytest.raises(ShapeError) as caught:
            wrong(mx.ones((2, 5)))
        assert caught.traceback[-1].path.name == "test_directions.py"


def test_directions_that_a_gradient_follows_are_refused():
    with pytest.raises(InterventionError, match="Write the arithmetic"):
        mx.vmap(lambda v: iv.project_out(v)(X))(drawn(2, WIDTH))
