"""Heat maps: the colours are the numbers, every label is there, and no text touches another."""

from __future__ import annotations

import traceback
import warnings

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph import plot
from mlxgraph.errors import (
    InputError,
    MLXGraphError,
    ShapeError,
    UnknownLabelError,
    UnknownNameError,
)
from mlxgraph.plot.figures import new_figure
from mlxgraph.plot.layout import named
from tests.dear import dear
from tests.pictures import faults

SLOW = [HealthCheck.too_slow]
UNSHRUNK = [Phase.explicit, Phase.reuse, Phase.generate]  # a picture takes a fifth of a second
ODD = ["<|endoftext|>", "ĠThe", "▁Tower", "<0x0A>", "\n", " 中文字", "\x00", "  ", "a$b", "�"]


def tokens(count: int) -> list[str]:
    return (ODD + [f" word{k}" if k % 3 else " of" for k in range(count)])[:count]


def field(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape) * 30


def check(figure) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a letter that no font has
        assert not faults(figure)


def images(figure) -> list:
    return [axes.images[0] for axes in figure.axes if axes.images]


def bar_of(figure):
    return next(axes for axes in figure.axes if axes.get_label() == "<colorbar>")


def texts(labels) -> list[str]:
    return [one.get_text().replace("\n", "") for one in labels]  # in two lines, where it is long


@pytest.mark.parametrize(
    ("count", "layers"), [(12, 6), (60, 32), *dear((12, 32), (12, 80), (60, 6), (60, 80))]
)
def test_layers_by_tokens(layers, count):
    figure = plot.heatmap(
        field(layers, count), range(layers), tokens(count), xlabel="token", ylabel="layer",
        label="recovery (%)", title="Denoising the residual stream",
    )  # fmt: skip
    check(figure)
    axes = figure.axes[0]
    assert texts(axes.get_xticklabels()) == named(tokens(count))
    assert axes.get_xlabel() == "token" and axes.get_ylabel() == "layer"
    assert axes.get_title() == "Denoising the residual stream"
    rows = [int(one) for one in texts(axes.get_yticklabels())]
    assert rows == list(range(0, layers, {6: 1, 32: 5, 80: 5}[layers]))
    assert list(axes.get_yticks()) == rows and axes.get_ylim() == (-0.5, layers - 0.5)
    assert bar_of(figure).get_ylabel() == "recovery (%)" and figure.dpi == 150


@pytest.mark.parametrize(("layers", "heads"), [(6, 8), (32, 32), *dear((80, 64))])
def test_layers_by_heads(layers, heads):
    figure = plot.heatmap(field(layers, heads), xlabel="head", ylabel="layer", label="change")
    check(figure)
    assert texts(figure.axes[0].get_xticklabels())[:2] == ["0", "1" if heads == 8 else "2"]


@pytest.mark.parametrize(
    ("panels", "layers", "count"),
    [(3, 6, 12), (2, 6, 3), (10, 4, 4), *dear((5, 32, 60), (4, 80, 12))],
)
@pytest.mark.thin(3)
def test_small_multiples_share_one_scale(panels, layers, count):
    values = field(panels, layers, count)
    names = [f"component {k}" + " and more" * k for k in range(panels)]
    figure = plot.heatmap(
        values, columns=tokens(count), panels=names, xlabel="token", ylabel="layer", label="change",
        title="By component",
    )  # fmt: skip
    check(figure)
    shown = images(figure)
    assert len(shown) == panels and len({image.get_clim() for image in shown}) == 1
    assert shown[0].get_clim()[1] == np.abs(values).max()
    for image, square in zip(shown, values, strict=True):
        assert np.array_equal(image.get_array(), square)
    titles = [axes.get_title() for axes in figure.axes[:panels]]
    assert titles[0] == names[0] and [one[:11] for one in titles] == [one[:11] for one in names]
    assert texts(figure.axes[0].get_yticklabels()) and figure.get_supxlabel().startswith("token")


def test_the_colours_are_the_numbers_and_zero_is_in_the_middle():
    values = np.abs(field(6, 12)) + 1
    figure = plot.heatmap(values)
    (image,) = images(figure)
    assert np.array_equal(image.get_array(), values)
    assert image.get_clim() == (-values.max(), values.max()) and image.cmap.name == "RdBu_r"
    assert plot.heatmap(-values).axes[0].images[0].get_clim() == image.get_clim()
    around = plot.heatmap(values, centre=10.0).axes[0].images[0].get_clim()
    assert around[0] + around[1] == 20.0 and around[1] == values.max()
    (other,) = images(plot.heatmap(values, centre=None))
    assert other.get_clim() == (values.min(), values.max()) and other.cmap.name == "viridis"
    assert images(plot.heatmap(values, cmap="PuOr"))[0].cmap.name == "PuOr"
    assert images(plot.heatmap(np.zeros((2, 3))))[0].get_clim() == (-1, 1)


def test_the_bar_says_where_zero_is_and_what_goes_beyond_it():
    bar = bar_of(plot.heatmap(field(6, 12)))
    assert "0" in texts(bar.get_yticklabels())
    values = np.array([[5.0, -50.0, np.inf], [1.0, 2.0, np.nan]])
    figure = plot.heatmap(values, limit=20.0, label="x")
    (image,) = images(figure)
    assert image.get_clim() == (-20, 20) and image.colorbar.extend == "both"
    assert image.get_array().mask.tolist() == [[False] * 3, [False, False, True]]
    inside, beyond, unknown = image.to_rgba(image.get_array())[[0, 0, 1], [0, 2, 2]]
    assert tuple(beyond) == image.cmap(1.0) and not np.array_equal(inside, beyond)
    assert len(set(unknown[:3])) == 1 and "grey: NaN" in bar_of(figure).get_ylabel()
    assert images(plot.heatmap(values[:, :1], limit=20.0))[0].colorbar.extend == "neither"
    check(figure)


def test_tokens_can_be_read():
    said = dict(zip(ODD, named(ODD), strict=True))
    assert said["<|endoftext|>"] == "<|endoftext|>" and said["<0x0A>"] == "<0x0A>"
    assert said["ĠThe"] == "The" and said["▁Tower"] == "Tower" and said["\n"] == "↵"
    assert said["\x00"] == "\\x00" and said["  "] == "␣␣" and said["a$b"] == "a$b"
    assert said[" 中文字"] in ("中文字", "\\u4e2d\\u6587\\u5b57")
    assert named(["Ċ", "<|start_header_id|>"]) == ["↵", "<|start_header_id|>"]
    assert named([0, -0.5, 2.0, 1e-5]) == ["0", "−0.5", "2", "1e−05"]


def test_numbered_rows_rise_and_texts_are_read_downwards():
    assert plot.heatmap(field(3, 4)).axes[0].get_ylim() == (-0.5, 2.5)
    assert plot.heatmap(field(3, 4), ["a", "b", "c"]).axes[0].get_ylim() == (2.5, -0.5)


def test_a_picture_is_as_large_as_its_cells_ask_for():
    sizes = [plot.heatmap(field(n, n)).get_size_inches() for n in (4, 16, 40, 80)]
    assert all((a <= b).all() for a, b in zip(sizes, sizes[1:], strict=False))
    assert (sizes[-1] < 16).all() and not np.array_equal(sizes[0], sizes[-1])
    figure = plot.heatmap(
        field(32, 60), columns=tokens(60), xlabel="token", label="a long name of the numbers " * 3,
        title="a title that is longer than the picture is wide " * 3, figsize=(6, 5),
    )  # fmt: skip
    check(figure)
    assert tuple(figure.get_size_inches()) == (6, 5)
    assert figure.axes[0].get_xlabel() == "token (every 2nd named)"
    with pytest.raises(InputError, match=r"Write figsize=\("):
        plot.heatmap(field(6, 12), columns=tokens(12), label="x", figsize=(1.5, 1))


@settings(deadline=None, max_examples=8, phases=UNSHRUNK, suppress_health_check=SLOW)
@given(st.data())
def test_no_text_touches_another_whatever_is_written(data):
    words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Mn", "Me"]), max_size=9)
    rows, columns = (data.draw(st.integers(1, 25)) for _ in "ab")
    count = data.draw(st.integers(1, 3))
    labels = data.draw(st.lists(words, min_size=columns, max_size=columns))
    figure = plot.heatmap(
        field(count, rows, columns),
        data.draw(st.sampled_from([None, tokens(rows), np.linspace(-3, 3, rows)])),
        labels,
        xlabel=data.draw(words), ylabel=data.draw(words), label=data.draw(words),
        title=data.draw(words) * data.draw(st.integers(1, 20)),
        panels=data.draw(st.sampled_from([None, tokens(count)])),
    )  # fmt: skip
    check(figure)


def test_what_touches_is_found():
    figure = new_figure((4, 3))
    figure.set_layout_engine("none")
    figure.text(0.3, 0.5, "one two")
    figure.text(0.32, 0.5, "three")
    figure.text(0.98, 0.8, "over the edge")
    found = {"touching": [("one two", "three")], "over the edge": ["over the edge"]}
    assert faults(figure) == found
    figure.add_axes((0.2, 0.4, 0.5, 0.5))
    assert {"one two", "three"} <= set(faults(figure)["over axes"])


# -- of results ------------------------------------------------------------------------------------


def made(**more) -> mg.Effects:
    return mg.Effects(
        field(3, 4, 6),
        {"component": ["attn", "mlp", "output"], "layer": range(2, 6), "position": range(6)},
        coords={"token": ("position", tokens(6))},
        name="recovery",
        unit="%",
        **more,
    )


def test_a_result_draws_itself_layers_up_and_tokens_across():
    e = made().sel(component="mlp")
    figure = e.plot()
    check(figure)
    (image,) = images(figure)
    assert np.array_equal(image.get_array(), np.asarray(e))
    axes = figure.axes[0]
    assert texts(axes.get_xticklabels()) == named(tokens(6)) and axes.get_xlabel() == "token"
    assert texts(axes.get_yticklabels()) == ["2", "3", "4", "5"] and axes.get_ylabel() == "layer"
    assert bar_of(figure).get_ylabel() == "recovery (%)" and axes.get_title() == "component mlp"
    turned = e.plot(rows="position", figsize=(5, 6), cmap="PuOr", title="")
    assert np.array_equal(images(turned)[0].get_array(), np.asarray(e).T)
    assert tuple(turned.get_size_inches()) == (5, 6) and not turned.axes[0].get_title()
    flipped = mg.Effects(np.asarray(e).T, {"position": range(6), "layer": range(4)}).plot()
    assert np.array_equal(images(flipped)[0].get_array(), np.asarray(e))


def test_three_axes_are_small_multiples():
    e = made(attrs={"title": "Denoising"})
    figure = e.plot()
    check(figure)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["attn", "mlp", "output"]
    assert figure.get_suptitle() == "Denoising" and figure.get_supxlabel() == "token"
    for k, image in enumerate(images(figure)):
        assert np.array_equal(image.get_array(), np.asarray(e)[k])
    heads = mg.Effects(field(2, 3, 4), {"layer": [0, 1], "head": range(3), "position": range(4)})
    assert [axes.get_title() for axes in heads.plot().axes[:3]] == ["head 0", "head 1", "head 2"]
    by_layer = heads.plot(rows="head", columns="position")
    assert by_layer.axes[0].get_title() == "layer 0" and by_layer.get_supylabel() == "head"
    assert e.sel(component="mlp").plot().axes[0].get_title() == "Denoising, component mlp"


def test_one_axis_is_bars_or_a_line_of_one_colour():
    e = made().sel(component="mlp", layer=3)
    figure = e.plot()
    check(figure)
    bars = figure.axes[0].patches
    assert np.allclose([bar.get_height() for bar in bars], np.asarray(e))
    assert len({bar.get_facecolor() for bar in bars}) == 1
    assert texts(figure.axes[0].get_xticklabels()) == named(tokens(6))
    assert figure.axes[0].get_ylabel() == "recovery (%)"
    strengths = mg.Effects([1, 2, 4], {"strength": [-1, 0, 3]})
    (line,) = [one for one in strengths.plot().axes[0].lines if len(one.get_xdata()) == 3]
    assert line.get_xdata().tolist() == [-1, 0, 3] and line.get_ydata().tolist() == [1, 2, 4]
    assert len(strengths.plot(kind="bars").axes[0].patches) == 3


WRONG = {
    "no shape": (lambda e: plot.heatmap([1, 2]), ShapeError, "rows, columns"),
    "no cells": (lambda e: plot.heatmap(np.zeros((0, 3))), ShapeError, r"\(0, 3\)"),
    "no numbers": (lambda e: plot.heatmap([["a"]]), InputError, "made of numbers"),
    "rows": (lambda e: plot.heatmap(field(2, 3), [1]), ShapeError, "2 rows, and 1 labels"),
    "columns": (lambda e: plot.heatmap(field(2, 3), None, "abc"), ShapeError, "one text"),
    "panels": (lambda e: plot.heatmap(field(2, 3), panels="a"), ShapeError, "1 panels"),
    "too many": (lambda e: plot.heatmap(field(65, 2, 2)), InputError, "64 or fewer"),
    "a limit": (lambda e: plot.heatmap(field(2, 2), limit=-1), InputError, "above 0"),
    "no centre": (lambda e: plot.heatmap(field(2, 2), centre=None, limit=1), InputError, "centre"),
    "four axes": (lambda e: mg.Effects(field(1, 1, 1, 1), dict.fromkeys("abcd", [0])).plot(),
                  InputError, r"e.sel\(a=0\)"),
    "none": (lambda e: mg.Effects(1.0, {}).plot(), InputError, r"float\(e\)"),
    "bars": (lambda e: e.plot(kind="bars"), InputError, "bars are of one axis"),
    "lines": (lambda e: e.plot(kind="lines"), InputError, "lines are of one axis or two"),
    "a kind": (lambda e: e.plot(kind="heatmaps"), UnknownNameError, "heatmap"),
    "an axis": (lambda e: e.plot(rows="lyaer"), UnknownLabelError, "Did you mean 'layer'"),
    "one axis twice": (lambda e: e.plot(rows="layer", columns="layer"), InputError, "both"),
    "bars of colours": (lambda e: e.sel(layer=3, position=0).plot(limit=3), InputError, "set_ylim"),
    "a colormap": (lambda e: plot.heatmap(field(2, 2), limit=0), InputError, "above 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_drawn_says_why_on_the_users_line(name):
    use, kind, says = WRONG[name]
    with pytest.raises(kind, match=says) as caught:
        use(made())
    assert isinstance(caught.value, MLXGraphError)
    assert {entry.filename for entry in traceback.extract_tb(caught.tb)} == {__file__}


def test_an_unknown_colormap_raises():
    with pytest.raises(KeyError, match="no_such_map"):
        plot.heatmap(field(2, 2), cmap="no_such_map")


def test_arrays_of_mlx_and_lists_are_drawn_too():
    values = field(2, 3).astype(np.float32)
    for given_as in (mx.array(values), values.tolist(), mx.array(values)[None]):
        assert np.allclose(images(plot.heatmap(given_as))[0].get_array(), values)
    assert plot.heatmap(mx.ones((2, 2), dtype=mx.bfloat16), mx.arange(2), np.arange(2)).axes
