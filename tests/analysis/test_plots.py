"""Pictures: what is drawn, that nothing waits for a screen, and what is said without matplotlib."""

from __future__ import annotations

import subprocess
import sys
import traceback

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import InputError, MissingDependencyError, UnknownNameError
from mlxgraph.plot import figures, lens
from mlxgraph.plot.heat import heatmap
from mlxgraph.plot.patterns import attention
from mlxgraph.plot.recovery import recovery_bars

IDS = [1, 7, 3, 9, 4, 2]
TEXT, OTHER = "The capital of France is", "The capital of Italy is"


def test_without_plot_there_is_no_figure(tiny):
    assert tiny.logit_lens(TEXT).figure is None


def test_the_bars_are_the_recoveries(llama):
    found = llama.activation_patching(IDS, [1, 8, 3, 9, 4, 2], "attn", plot=True, figsize=(6, 4))
    axes = found.figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx(list(found.values()))
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "1", "2"]
    assert "attn" in axes.get_title() and tuple(found.figure.get_size_inches()) == (6, 4)


def test_height_alone_says_how_much_a_bar_is():
    bars = recovery_bars({0: 40.0, 1: -40.0, 2: 0.0}).axes[0].patches
    assert len({bar.get_facecolor() for bar in bars}) == 1
    other = recovery_bars({0: 40.0}, cmap="plasma").axes[0].patches
    assert other[0].get_facecolor() != bars[0].get_facecolor()


def test_many_layers_stay_readable():
    figure = recovery_bars({n: float(n) for n in range(96)})
    assert len(figure.axes[0].get_xticks()) <= 48 and not figure.axes[0].texts


def test_nothing_to_show_says_so():
    with pytest.raises(InputError, match="nothing to show"):
        recovery_bars({})


BAD = {
    "a colormap's name": (dict(cmap="viridsi"), UnknownNameError, "viridis"),
    "no colormap at all": (dict(cmap="no_such_map"), UnknownNameError, "RdBu_r"),
    "a number for one": (dict(cmap=3), InputError, "cmap='viridis'"),
    "one side": (dict(figsize=5), InputError, "figsize=(12, 8)"),
    "no inches": (dict(figsize=(0, 3)), InputError, "inches"),
    "texts": (dict(figsize=("a", 3)), InputError, "inches"),
    "pixels": (dict(figsize=(1200, 800)), InputError, "inches"),
}
PICTURES = {
    "lens": lambda tiny, **bad: tiny.logit_lens(TEXT, plot=True, **bad),
    "its own": lambda tiny, **bad: tiny.logit_lens(TEXT).plot(**bad),
    "patching": lambda tiny, **bad: tiny.activation_patching(TEXT, OTHER, plot=True, **bad),
    "heat map": lambda tiny, **bad: heatmap([[1.0, 2.0]], **bad),
    "pattern": lambda tiny, **bad: attention(np.eye(3), **bad),
    "bars": lambda tiny, **bad: mg.Effects([1.0, 2.0], {"layer": [0, 1]}).plot(**bad),
    "lines": lambda tiny, **bad: mg.Effects([1.0, 2.0], {"strength": [0.1, 1]}).plot(**bad),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_size_or_colormap_is_refused_on_the_users_line(tiny, name):
    bad, kind, said = BAD[name]
    for draw in PICTURES.values():
        with pytest.raises(kind) as caught:
            draw(tiny, **bad)
        assert said in str(caught.value)
        assert traceback.extract_tb(caught.value.__traceback__)[-1].filename == __file__


@pytest.mark.parametrize(
    "draw",
    [
        lambda: heatmap([[1.0]], title=3),
        lambda: heatmap([[1.0]], limit="x"),
        lambda: heatmap([[1.0]], centre=float("nan")),
        lambda: attention(np.eye(3), heads="a"),
        lambda: attention(np.eye(3), heads=[0.5]),
        lambda: attention(np.eye(3), tokens=5),
        lambda: mg.Effects([1.0], {"layer": [0]}).plot(title=3),
    ],
)
def test_other_arguments_of_pictures_that_are_none(draw):
    with pytest.raises(InputError):
        draw()


def test_a_colormap_of_matplotlibs_is_one(tiny):
    import matplotlib

    own = matplotlib.colormaps["plasma"]
    image = tiny.logit_lens(TEXT).plot(cmap=own).axes[0].images[0]
    assert image.cmap.name == "plasma"


def test_of_a_long_text_a_dot_is_the_largest_weight_of_several():
    pattern = np.zeros((2, 3000, 3000), dtype=np.float32)
    pattern[1, 2999, 7] = 0.5
    figure = attention(mx.array(pattern), heads=[1])
    (image,) = figure.axes[0].images
    shown = np.asarray(image.get_array())
    assert shown.shape == (1000, 1000) and shown[999, 2] == shown.max() == 0.5
    assert image.get_extent() == [-0.5, 2999.5, 2999.5, -0.5]
    assert "3 × 3" in figure.axes[1].get_ylabel()


# -- screens -------------------------------------------------------------------------------------


def test_without_a_screen_nothing_is_shown_and_pyplot_holds_nothing(tiny):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    for _ in range(3):
        figures.show(tiny.logit_lens(TEXT, plot=True).figure)
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    ("backend", "window", "displayed"),
    [
        ("agg", False, False),
        ("svg", False, False),
        ("module://matplotlib_inline.backend_inline", False, True),
        ("inline", False, True),
        ("qtagg", True, False),
    ],
)
def test_where_a_figure_is_shown(monkeypatch, backend, window, displayed):
    shown = []

    class Fake:
        def show(self):
            shown.append("window")

    monkeypatch.setattr(figures, "_backend", lambda: backend)
    monkeypatch.setattr("IPython.display.display", lambda figure: shown.append("display"))
    figures.show(Fake())
    assert shown == ["window"] * window + ["display"] * displayed


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch, tiny):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert tiny.logit_lens(TEXT)[5][-1][0][2] == " Paris"
    with pytest.raises(MissingDependencyError, match="pip install"):
        tiny.logit_lens(TEXT, plot=True)
    with pytest.raises(ImportError, match="matplotlib"):
        recovery_bars({0: 1.0})


def test_importing_the_library_does_not_import_matplotlib():
    code = "import sys, mlxgraph; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_notebooks_first_picture_is_a_picture(monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.delenv("MPLBACKEND", raising=False)
    show = "lens = model.logit_lens('The capital of France is', plot=True, figsize=(7, 4))"
    cells = ["import mlxgraph as mg\nmodel = mg.tiny()", show, "lens.plot(figsize=(7, 4))"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(book, timeout=120, kernel_name="python3").execute()
    for cell in book.cells[1:]:
        assert [list(out.data).count("image/png") for out in cell.outputs] == [1]


def test_a_figure_is_a_png_to_a_notebook():
    figure = recovery_bars({0: 1.0}, figsize=(3, 2))
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_pattern_is_a_square_for_each_head_with_tokens_along_both_axes(tiny):
    with tiny.trace(TEXT) as t:
        pattern = tiny.layers[2].attn.pattern.save()
    words = [tiny.token_to_str(token) for token in t.tokens[0].tolist()]
    figure = attention(pattern, words, heads=[0, -1])
    squares = [axes for axes in figure.axes if axes.images and axes.get_title()]
    assert [axes.get_title() for axes in squares] == ["head 0", "head 7"]
    shown = squares[1].images[0].get_array()
    assert abs(shown - np.array(pattern[0, 7])).max() == 0
    assert [tick.get_text() for tick in squares[0].get_xticklabels()][1:] == TEXT.split()
    assert [tick.get_text() for tick in squares[0].get_yticklabels()][1:] == TEXT.split()
    assert squares[0].images[0].get_clim() == squares[1].images[0].get_clim()
    assert not (shown == np.array(pattern[0, 0])).all()


def test_one_head_and_fewer_queries_than_keys_are_named_from_the_end():
    pattern = np.eye(2, 5)
    figure = attention(pattern, list("abcde"))
    (square,) = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert [tick.get_text() for tick in square.get_yticklabels()] == ["d", "e"]
    assert not square.get_title()
    many = attention(np.ones((6, 40, 40)))
    assert not any(len(axes.texts) for axes in many.axes)


@pytest.mark.parametrize(
    ("pattern", "options", "says"),
    [
        (np.ones((2, 3, 4, 4)), {}, "the first text of several"),
        (np.ones(4), {}, "heads, query, key"),
        (np.ones((4, 4)), {"tokens": ["a"]}, "has 4 keys, and 1 tokens"),
        (np.ones((4, 4)), {"tokens": "abcd"}, "one text"),
        (np.ones((4, 4)), {"heads": [1]}, "no head 1"),
        (np.ones((4, 4)), {"heads": []}, "no heads"),
    ],
)
def test_what_cannot_be_drawn_as_a_pattern_says_why(pattern, options, says):
    with pytest.raises(InputError, match=says):
        attention(pattern, **options)


def test_of_many_numbers_a_line_is_drawn_and_not_more_bars_than_can_be_seen():
    many = mg.Effects(np.arange(600.0), {"position": range(600)})
    assert not many.plot().axes[0].patches and many.plot().axes[0].lines
    with pytest.raises(InputError, match="kind='lines'"):
        many.plot(kind="bars")
    assert mg.Effects([1.0, 2.0], {"position": [0, 1]}).plot().axes[0].patches


def test_a_lens_of_many_positions_is_no_wider_than_can_be_drawn(monkeypatch):
    assert lens._size(3, 16_384) == (62.0, 3.5) and lens._size(3, 24)[0] < 20
    grid = lens.Grid([0], ["a"] * 20, [["b"] * 20], np.zeros((1, 20)))
    for smallest, edged in ((lens._FINE, True), (1e3, False)):
        monkeypatch.setattr(lens, "_FINE", smallest)
        figure = lens.lens_heatmap(grid, lens.Scale(("p",), 0, 1), max_display_tokens=20)
        assert bool(figure.axes[0].collections) == edged
