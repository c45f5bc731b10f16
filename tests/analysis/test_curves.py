"""Bars and lines: heights and curves are the numbers, and what is written can be read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph.errors import InputError
from mlxgraph.plot.curves import bars, lines
from mlxgraph.plot.recovery import recovery_bars
from tests.analysis.test_heatmaps import SLOW, UNSHRUNK, check, field, texts, tokens
from tests.dear import dear

STRENGTHS = np.arange(-3, 3.5, 0.5).tolist()


def curves(count: int) -> np.ndarray:
    return np.stack([np.tanh(np.array(STRENGTHS) * (k - 2) / count) for k in range(count)])


def drawn(figure) -> list:
    return [line for line in figure.axes[0].lines if line.get_marker() == "o"]


@pytest.mark.parametrize("count", [1, 6, *dear(32, 80)])
def test_bars_of_layers(count):
    values = field(count)
    figure = bars(values, range(count), xlabel="layer", ylabel="recovery (%)", title="Of attention")
    check(figure)
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == values.tolist()
    assert len({bar.get_facecolor() for bar in axes.patches}) == 1
    assert bool(axes.texts) == (count < 32) and len(axes.texts) in (0, count)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("layer", "recovery (%)")
    low, high = axes.get_ylim()
    assert low <= min(values.min(), 0) and high >= max(values.max(), 0)


@pytest.mark.parametrize("count", [12, *dear(60)])
def test_bars_of_tokens(count):
    figure = bars(field(count) / 100, tokens(count), xlabel="token", ylabel="change")
    check(figure)
    assert len(texts(figure.axes[0].get_xticklabels())) == (12 if count == 12 else 30)
    assert ("every 2nd" in figure.axes[0].get_xlabel()) == (count == 60)


def test_a_word_beside_names_of_modules_is_not_broken():
    names = ["embed", *(f"layers.{k}.{part}" for k in range(6) for part in ("attn", "mlp"))]
    figure = bars(field(13), names, xlabel="component")
    check(figure)
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert shown[0] == "embed" and shown[1] == "layers.\n0.attn"  # and these stand in two lines


def test_names_of_the_code_are_words_in_a_picture():
    axes = {"sender_layer": range(2), "receiver_layer": range(3)}
    numbers = field(6).reshape(2, 3)
    grid = mg.Effects(numbers, axes, name="change of logit_diff").plot().axes
    assert (grid[0].get_xlabel(), grid[0].get_ylabel()) == ("receiver layer", "sender layer")
    assert grid[1].get_ylabel().split() == "change of logit difference".split()
    curve = mg.Effects(numbers, axes, name="positive_word", unit="%").plot(kind="lines").axes[0]
    assert (curve.get_xlabel(), curve.get_ylabel()) == ("receiver layer", "positive word (%)")
    assert curve.get_legend().get_title().get_text() == "sender layer"
    one = mg.Effects(numbers, axes).sel(sender_layer=1).plot().axes[0]
    assert one.get_title() == "sender layer 1"


def test_an_unknown_bar_is_grey_and_no_zero():
    figure = bars([1.0, np.nan, -2.0], range(3), ylabel="x")
    check(figure)
    axes = figure.axes[0]
    assert "grey: NaN" in axes.get_ylabel() and texts(axes.texts) == ["1.0", "−2.0"]
    strip = [patch for patch in axes.patches if patch.get_x() == 0.5]
    assert len(strip) == 1 and len(set(strip[0].get_facecolor()[:3])) == 1
    check(bars([0.0, 0.0], range(2)))
    check(bars([np.nan], [0]))


@pytest.mark.parametrize("count", [6, 80, *dear(34)])
def test_recovery_in_the_size_that_the_documents_give(count):
    figure = recovery_bars({k: float(v) for k, v in enumerate(field(count))}, "attn")
    check(figure)
    assert tuple(figure.get_size_inches()) == (12, 8)
    assert bool(figure.axes[0].texts) == (count < 80)


@pytest.mark.parametrize("count", [1, 6, *dear(3, 32, 80)])
def test_steering_curves_are_a_line_for_each_layer(count):
    values = curves(count)
    figure = lines(
        values, STRENGTHS, range(count), xlabel="strength", ylabel="probability", of="layer"
    )
    check(figure)
    found = drawn(figure)
    assert len(found) == count
    for line, row in zip(found, values, strict=True):
        assert np.array_equal(line.get_xdata(), STRENGTHS)
        assert np.array_equal(line.get_ydata(), row)
    assert len({tuple(np.ravel(line.get_color())) for line in found}) == count
    legend = figure.axes[0].get_legend()
    assert (legend is not None) == (count in (3, 6)) and (len(figure.axes) == 2) == (count > 12)


def test_strengths_stand_where_they_lie_and_in_their_order():
    figure = lines([[5.0, 1.0, 3.0]], [10, -1, 0.5])
    (line,) = drawn(figure)
    assert line.get_xdata().tolist() == [-1, 0.5, 10] and line.get_ydata().tolist() == [1, 3, 5]
    check(figure)


@pytest.mark.parametrize("count", [2, *dear(14, 20)])
def test_lines_with_texts_for_names_have_a_legend(count):
    names = [f"variant {k} of a long name" for k in range(count)]
    figure = lines(curves(count), STRENGTHS, names, of="variant")
    check(figure)
    legend = figure.axes[0].get_legend()
    shown = texts(legend.get_texts())
    assert len(shown) == count and all(one.startswith("variant") for one in shown)
    assert legend.get_title().get_text() == "variant"


def test_too_many_lines_with_texts_for_names_raise():
    with pytest.raises(InputError, match="cannot be told apart"):
        lines(curves(21), STRENGTHS, [f"v{k}" for k in range(21)])


def test_a_result_over_strength_and_layer_is_drawn_both_ways():
    e = mg.Effects(curves(6), {"layer": range(6), "strength": STRENGTHS}, name="probability")
    figure = e.plot(kind="lines")
    check(figure)
    assert np.allclose([line.get_ydata() for line in drawn(figure)], np.asarray(e))
    assert figure.axes[0].get_xlabel() == "strength" and figure.axes[0].get_legend() is not None
    other = e.plot(kind="lines", columns="layer")
    assert np.allclose([line.get_ydata() for line in drawn(other)], np.asarray(e).T)
    heat = e.plot()
    check(heat)
    assert np.array_equal(heat.axes[0].images[0].get_array(), np.asarray(e))


@settings(deadline=None, max_examples=2, phases=UNSHRUNK, suppress_health_check=SLOW)
@given(st.data())
def test_no_text_touches_another_whatever_is_written(data):
    words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Mn", "Me"]), max_size=9)
    count = data.draw(st.integers(1, 30))
    labels = data.draw(st.lists(words, min_size=count, max_size=count))
    written = {"xlabel": data.draw(words), "ylabel": data.draw(words) * 9, "title": "ab c" * 20}
    size = data.draw(st.sampled_from([None, (5, 4), (12, 8)]))
    scale = 10.0 ** data.draw(st.integers(-6, 6))
    check(bars(field(count) * scale, labels, figsize=size, **written))
    names = data.draw(st.lists(words, min_size=3, max_size=3))
    check(lines(field(3, count) * scale, labels, names, of="of", figsize=size, **written))
    numbers = data.draw(st.lists(st.floats(-50, 50), min_size=count, max_size=count))
    check(lines(field(20, count), numbers, range(20), of="layer", figsize=size, **written))
