"""The lens as a picture: its colours are the numbers, its labels can be read and do not touch.

Labels are measured with a renderer, in pixels.
"""

from __future__ import annotations

import itertools
import random
import re
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure

import mlxgraph as mg
from mlxgraph.errors import InputError
from mlxgraph.plot import labels
from mlxgraph.plot.labels import columns, drawable, label
from mlxgraph.plot.lens import Grid, Scale, lens_heatmap
from tests.dear import dear
from tests.surface.test_tokenizer_kinds import bytes_of_text, of_transformers

TEXT = "The capital of France is"
TOKENS = [
    " the", " of", " Paris", "\n", "<|endoftext|>", "<0x0A>", "<0xE4>", " internationalization",
    ",", " a", "\x00", "  ", " located", " capital", "中文", "🎉", "$x_{$", "é", "\u200b",
]  # fmt: skip
CHANCE = Scale(("probability of the top prediction", "probability"), 0, 1)


def grid(layers, positions, seed=0):
    """Awkward tokens at random; the last third of the layers agree."""
    draw, numbers = random.Random(seed), np.random.default_rng(seed)
    predictions = [[draw.choice(TOKENS) for _ in range(positions)] for _ in range(layers)]
    predictions[2 * layers // 3 :] = [predictions[-1]] * (layers - 2 * layers // 3)
    tokens = ["<|begin_of_text|>"] + [draw.choice(TOKENS) for _ in range(positions - 1)]
    return Grid(range(layers), tokens, predictions, numbers.random((layers, positions)))


def cells(figure):
    """The texts in the grid, by (column, row)."""
    return {text.get_position(): text.get_text() for text in figure.axes[0].texts}


def colours(figure):
    """What each cell is coloured, (layers, positions, 4)."""
    image = figure.axes[0].images[0]
    return image.cmap(image.norm(image.get_array()))


def brightness(figure):
    return colours(figure)[..., :3] @ [0.2126, 0.7152, 0.0722]


def named(ticks):
    return [tick for tick in ticks if tick.get_text()]


def faults(figure):
    """What touches, sticks out or is too small to read."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as of a letter that no font has
        figure.savefig("/dev/null", format="png")
    found = []
    page = figure.bbox
    axes, bar = figure.axes
    groups = [named(axes.get_xticklabels()), named(axes.get_yticklabels())]
    ends = sorted(bar.get_ylim())  # matplotlib keeps ticks beyond them, and draws none
    ticks = zip(bar.get_yticks(), bar.get_yticklabels(), strict=True)
    groups.append([text for at, text in ticks if ends[0] <= at <= ends[1]])
    around = [figure._suptitle, figure._supxlabel, axes.yaxis.label, bar.yaxis.label]
    for group in [*groups, around]:
        boxes = [text.get_window_extent() for text in group]
        for text, box in zip(group, boxes, strict=True):
            if box.x0 < -1 or box.y0 < -1 or box.x1 > page.x1 + 1 or box.y1 > page.y1 + 1:
                found.append(f"{text.get_text()!r} sticks out")
        for (one, a), (other, b) in itertools.combinations(zip(group, boxes, strict=True), 2):
            if a.x0 < b.x1 - 0.5 and b.x0 < a.x1 - 0.5 and a.y0 < b.y1 - 0.5 and b.y0 < a.y1 - 0.5:
                found.append(f"{one.get_text()!r} touches {other.get_text()!r}")
    for group, other in itertools.combinations([*groups, around], 2):
        for one, two in itertools.product(group, other):
            if one.get_window_extent().padded(-1).overlaps(two.get_window_extent().padded(-1)):
                found.append(f"{one.get_text()!r} touches {two.get_text()!r}")
    rows, across = axes.images[0].get_array().shape
    box = axes.get_window_extent()
    for text in axes.texts:
        shown = text.get_window_extent()
        if text.get_fontsize() < 6:
            found.append(f"{text.get_text()!r} is too small")
        if shown.width > box.width / across or shown.height > box.height / rows:
            found.append(f"{text.get_text()!r} is larger than its cell")
    return found


SIZES = [(1, 1), (6, 1), (6, 12), (32, 60)]
SIZES += dear((1, 12), (6, 60), (32, 12), (80, 12), (80, 60))


@pytest.mark.parametrize(("layers", "positions"), SIZES)
@pytest.mark.thin(3)
def test_labels_can_be_read_and_do_not_touch(layers, positions):
    figure = lens_heatmap(grid(layers, positions), CHANCE, max_display_tokens=positions)
    assert faults(figure) == []
    written = bool(figure.axes[0].texts)
    assert written == (positions <= 12)
    assert ("predictions left out" in figure._supxlabel.get_text()) != written
    assert figure.dpi == 150 and max(figure.get_size_inches()) <= 16


@pytest.mark.parametrize("figsize", [(4, 3), *dear(((9, 4),), ((16, 10),))])
def test_a_size_that_was_asked_for_is_kept_and_holds_what_fits(figsize):
    for positions in (2, 12):
        figure = lens_heatmap(grid(6, positions), CHANCE, figsize=figsize)
        assert tuple(figure.get_size_inches()) == figsize
        assert faults(figure) == []


def test_words_that_were_left_out_are_there_in_the_size_that_the_picture_names():
    said = lens_heatmap(grid(6, 60), CHANCE, 60)._supxlabel.get_text()
    width, height = (int(part) for part in re.search(r"figsize=\((\d+), (\d+)\)", said).groups())
    figure = lens_heatmap(grid(6, 60), CHANCE, 60, (width, height))
    assert len(figure.axes[0].texts) == 6 * 60


def test_what_does_not_fit_is_found():
    figure = lens_heatmap(grid(6, 12), CHANCE)
    figure.axes[0].texts[3].set_text("a prediction that is longer than its cell")
    assert faults(figure)


# -- what the colours are -------------------------------------------------------------------------


def test_colours_are_ordered_as_the_numbers():
    numbers = np.array([[0.0, 0.2], [0.55, 1.0]])
    table = grid(2, 2)._replace(numbers=numbers)
    assert (np.diff(brightness(lens_heatmap(table, CHANCE)).reshape(-1)) > 0).all()
    turned = Scale(("rank",), 1, 1000, logarithmic=True, turned=True)
    ranks = lens_heatmap(table._replace(numbers=[[1, 2], [30, 1000]]), turned)
    assert (np.diff(brightness(ranks).reshape(-1)) < 0).all()
    steps = -np.diff(brightness(ranks).reshape(-1))
    assert steps[0] > 0.03, "2 is not as 1 where the scale is logarithmic"


def test_the_heatmap_is_of_the_lens(tiny):
    lens = tiny.logit_lens(TEXT, plot=True)
    assert isinstance(lens.figure, Figure) and faults(lens.figure) == []
    shown = cells(lens.figure)
    assert len(shown) == 6 * 6
    for layer, positions in lens.items():
        for position, best in enumerate(positions):
            assert shown[(position, layer)] == label(best[0][2])
    axes, bar = lens.figure.axes
    assert (axes.images[0].get_array() == np.asarray(lens)).all()
    assert bar.get_ylabel() == "probability of the top prediction"
    assert axes.images[0].get_clim() == (0, 1)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "1", "2", "3", "4", "5"]
    assert [t.get_text() for t in axes.get_xticklabels()][1:] == TEXT.split()


@pytest.mark.parametrize(
    ("options", "drawn", "says", "ends"),
    [
        ({"color": "entropy"}, lambda lens: lens.entropy, "nats", (0, np.log(1014))),
        (
            {"color": "rank", "token": " Paris"},
            lambda lens: lens.rank,
            "rank of ' Paris'",
            (1, 1014),
        ),
        ({"token": " Paris"}, lambda lens: lens, "probability of ' Paris'", (0, 1)),
        (
            {"token": " Paris", "color": "entropy"},
            lambda lens: lens.entropy,
            "nats",
            (0, np.log(1014)),
        ),
    ],
)
@pytest.mark.thin(3)
def test_colours_are_of_what_was_asked_for(tiny, options, drawn, says, ends):
    lens = tiny.logit_lens(TEXT, plot=True, **options)
    axes, bar = lens.figure.axes
    assert (axes.images[0].get_array() == np.asarray(drawn(lens))).all()
    assert says in bar.get_ylabel() and faults(lens.figure) == []
    assert axes.images[0].get_clim() == pytest.approx(ends)


def test_a_rank_is_coloured_by_its_logarithm_and_1_is_at_the_top(tiny):
    figure = tiny.logit_lens(TEXT, token=" Paris", plot=True, color="rank").figure
    norm = figure.axes[0].images[0].norm
    assert norm(10) - norm(1) == pytest.approx(norm(100) - norm(10))
    bottom, top = figure.axes[1].get_ylim()
    assert bottom > top == 1


def test_one_of_several_tokens_is_drawn(tiny):
    lens = tiny.logit_lens(TEXT, tokens=[" Paris", " Rome"], plot=True)
    assert "top prediction" in lens.figure.axes[1].get_ylabel()
    figure = lens.plot(color="rank", token=" Rome")
    ranks = np.asarray(lens.rank.sel(target=" Rome"))
    assert (figure.axes[0].images[0].get_array() == ranks).all()


def test_the_documented_parameters_do_what_they_say(tiny):
    lens = tiny.logit_lens(
        TEXT, layers=[5, 0], plot=True, max_display_tokens=2, figsize=(7, 3), cmap="plasma"
    )
    assert len(cells(lens.figure)) == 2 * 2
    assert tuple(lens.figure.get_size_inches()) == (7, 3)
    assert "the last 2 of 6" in lens.figure._supxlabel.get_text()
    rows = lens.figure.axes[0].get_yticklabels()
    assert [row.get_text() for row in rows] == ["0", "5"], "the first layer is below"
    drawn = lens.figure.axes[0].images[0].get_array()
    assert (drawn == np.asarray(lens)[::-1, -2:]).all()
    other = lens.plot(max_display_tokens=2)
    assert (colours(other) != colours(lens.figure)).any()
    assert len(lens[0]) == 6, "the result keeps what the picture leaves out"
    single = tiny.logit_lens(TEXT, position=-1, plot=True)
    assert len(cells(single.figure)) == 6 and faults(single.figure) == []


def test_bold_is_the_last_layers_prediction(tiny):
    lens = tiny.logit_lens(TEXT, plot=True)
    bold = {t.get_position() for t in lens.figure.axes[0].texts if t.get_fontweight() == "bold"}
    assert bold == {
        (position, layer)
        for layer, positions in lens.items()
        for position, best in enumerate(positions)
        if best[0][0] == lens[5][position][0][0]
    }


def test_what_is_no_number_has_a_colour_of_its_own():
    figure = lens_heatmap(grid(1, 2)._replace(numbers=[[np.nan, 0.5]]), CHANCE)
    assert colours(figure)[0, 0].tolist() == [0.85, 0.85, 0.85, 1]


def test_nothing_to_show_says_so(tiny):
    with pytest.raises(InputError, match="nothing to show"):
        lens_heatmap(Grid([], ["a"], [], np.ones((0, 1))), CHANCE)
    with pytest.raises(InputError, match="nothing to show"):
        tiny.logit_lens(TEXT).plot(max_display_tokens=0)
    with pytest.raises(InputError, match="whole number"):
        tiny.logit_lens(TEXT).plot(max_display_tokens="all")


# -- tokens as labels -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" Paris", "Paris"),
        ("\n", "↵"),
        ("\n\n", "↵↵"),
        (" ", "␣"),
        ("  ", "␣␣"),
        ("", "∅"),
        ("a$b", "a$b"),
        ("\x00", "\\x00"),
        ("\u200b", "\\u200b"),
        ("<|endoftext|>", "<|endoftext|>"),
        ("<0x0A>", "<0x0A>"),
        ("incomprehensibilities", "incomprehensi…"),
        ("中文中文中文中文", "中文中文中文…"),
    ],
)
def test_labels(token, shown):
    assert label(token) == shown and columns(shown) <= 14


def test_what_no_font_has_is_spelt_out(monkeypatch):
    monkeypatch.setattr(labels, "families", lambda: ("DejaVu Sans",))
    assert drawable("a中é🜁") == "a\\u4e2dé\\U0001f701".replace("\\U0001f701", drawable("🜁"))
    assert drawable("中") == "\\u4e2d" and drawable("é↵␣∅…") == "é↵␣∅…"


def test_parts_of_characters_show_their_bytes():
    model = mg.InterpretableModel(mg.tiny().module, of_transformers(bytes_of_text(around="$A")))
    ids = model.encode("中é", add_special_tokens=False)
    lens = model.logit_lens(ids, plot=True)
    shown = [tick.get_text() for tick in lens.figure.axes[0].get_xticklabels()]
    assert shown[:3] == ["<0xE4>", "<0xB8>", "<0xAD>"]
    assert lens.tokens[0] == "\ufffd", "the result has the token's text"


def test_without_a_tokenizer_labels_are_numbers(tiny):
    model = mg.InterpretableModel(tiny.module)
    lens = model.logit_lens([1, 5, 9], plot=True, token=7)
    assert [t.get_text() for t in lens.figure.axes[0].get_xticklabels()] == ["1", "5", "9"]
    assert cells(lens.figure)[(0, 0)] == str(lens[0][0][0][0])
