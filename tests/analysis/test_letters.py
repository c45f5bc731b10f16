"""Pictures in letters: what stands where, in which width, and how much shade it has."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import InputError, UnknownLabelError
from mlxgraph.plot.labels import columns
from mlxgraph.plot.terminal import Look, bar_lines, written

ANSI = re.compile(r"\x1b\[[\d;]*m")
TOKENS = ["The", " 首都", "\n", " e\u0301te\u0301", "\ufffd", " <0xE4>"]


def effects(layers: int = 4, seed: int = 0, **fields) -> mg.Effects:
    numbers = np.random.default_rng(seed).normal(size=(layers, len(TOKENS)))
    axes = {"layer": range(layers), "position": range(len(TOKENS))}
    return mg.Effects(numbers, axes, coords={"token": ("position", TOKENS)}, **fields)


def test_a_map_has_each_number_in_its_row_and_column() -> None:
    e = effects()
    head, above, labels, *rows, scale, largest = e.to_text().splitlines()
    assert head == "effect" and above.split() == ["layer"]
    assert labels.split() == ["position", "0", "1", "2", "3"]
    for position, row in enumerate(rows):
        found = re.findall(r"-?\d\.\d\d", row)
        wanted = [f"{n:.2f}" for n in np.asarray(e)[:, position]]
        assert found == [text.replace("-0.00", "0.00") for text in wanted]
    assert len(rows) == 6 and largest.startswith("largest") and scale.startswith("scale: -")


def cells(line: str) -> int:
    """How wide a terminal shows it: Chinese in two cells, accents on the letter before."""
    return sum(0 if sign == "\u0301" else 2 if "\u4e00" <= sign < "\ua000" else 1 for sign in line)


def test_wide_and_accented_tokens_and_bytes_keep_the_columns_straight() -> None:
    lines = effects().to_text().splitlines()[2:9]
    assert {cells(line) for line in lines} == {cells(lines[0])}
    assert "1 首都" in lines[2] and "2 ↵" in lines[3] and "5 <0xE4>" in lines[6]


def test_shades_grow_with_the_number_on_both_sides_of_the_centre() -> None:
    numbers = [[-1.0, -0.5, 0.0, 0.5, 1.0, np.nan]]
    e = mg.Effects(numbers, {"position": [0], "layer": range(6)})
    row = e.to_text(60).splitlines()[3]
    assert row.split()[1:] == ["≡", "-1.00", "-", "-0.50", "0.00", "▒", "0.50", "█", "1.00", "NaN"]
    assert e.to_text(22).splitlines()[3] == "0        ≡≡--  ▒▒██??"
    assert "? not known" in e.to_text(22)
    grounds = re.findall(r"48;5;(\d+)m", e.to_text(60, ansi=True).splitlines()[3])
    assert grounds == ["26", "153", "255", "217", "160"]
    assert ANSI.sub("", e.to_text(60, ansi=True)).split()[3:9] == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize("layers", [4, 12, 48, 200])
@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_too_wide_and_no_layer_is_left_out(layers: int, width: int) -> None:
    text = effects(layers).to_text(width)
    rows = [line for line in text.splitlines() if re.match(r"\d ", line)]
    assert max(map(columns, rows)) <= width and len(rows) % 6 == 0
    ansi = effects(layers).to_text(width, ansi=True)
    painted = [line for line in ansi.splitlines() if re.match(r"\d ", line)]
    assert max(columns(ANSI.sub("", line)) for line in painted) <= width
    assert sum(line.count("48;5;") for line in painted) == 6 * layers


def test_axes_before_the_last_two_are_maps_of_their_own() -> None:
    numbers = np.arange(24.0).reshape(2, 3, 4)
    axes = {"component": ["attn", "mlp"], "layer": range(3), "head": range(4)}
    text = mg.Effects(numbers, axes).to_text()
    assert text.index("component='attn'") < text.index("component='mlp'")
    odd = {"sender": range(2), "heads": range(3), "receiver": range(4)}
    assert mg.Effects(numbers, odd).to_text().splitlines()[3].split() == ["receiver"]
    turned = mg.Effects(numbers[0], {"layer": range(3), "head": range(4)})
    assert turned.to_text(rows="head").splitlines()[1:3] == ["     layer", "head    0    1    2"]
    narrow = mg.Effects(numbers[0], {"layer": range(3), "token": ["a" * 9, "b", "c", "d"]})
    lines = [line.strip() for line in narrow.to_text(30).splitlines()]
    assert lines.count("token") == 2  # above each part


def test_one_axis_is_bars_from_zero_to_both_sides() -> None:
    e = mg.Effects([2.0, -1.0, 0.0], {"component": ["embed", "layers.0.attn", "layers.0.mlp"]})
    _, first, second, third = e.to_text(50).splitlines()
    start = first.index("█")
    assert second.rindex("█") == start - 1 and set(third[start:]) <= {" "}
    assert first.count("█") == pytest.approx(2 * second.count("█"), abs=2)
    assert bar_lines([1.0], ["a" * 100], Look(40))[0].startswith("a" * 23 + "…")


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ([1.0, 100.0], ["1", "100"]),
        ([0.5, 98.76], ["0.5", "98.8"]),
        ([-0.001, 1.0], ["0.00", "1.00"]),
        ([1e-7, 2e-7], ["1.0e-07", "2.0e-07"]),
        ([0.0, 0.0], ["0", "0"]),
        ([np.inf, np.nan, 2.5], ["inf", "NaN", "2.50"]),
    ],
)
def test_numbers_have_as_many_digits_as_tell_the_largest(numbers, shown) -> None:
    assert written(numbers) == shown


def test_what_no_picture_can_be_made_of_is_refused() -> None:
    with pytest.raises(InputError, match="width=10"):
        effects().to_text(10)
    with pytest.raises(UnknownLabelError, match="head"):
        effects().to_text(rows="head")
    with pytest.raises(InputError, match="both"):
        effects().to_text(rows="layer", columns="layer")


def test_a_single_number_is_a_line() -> None:
    e = effects(name="recovery", unit="%").sel(layer=1, position=2)
    assert re.fullmatch(
        r"recovery \(%\) at layer=1, position=2, token='\\n': -?\d\.\d+", e.to_text()
    )


# -- the lens --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> mg.InterpretableModel:
    return mg.tiny()


TEXT = "The capital of France is"


def test_a_lens_shows_its_words(tiny: mg.InterpretableModel) -> None:
    lens = tiny.logit_lens(TEXT)
    rows = lens.to_text().splitlines()[2:-1]
    for position, row in enumerate(rows):
        words = re.findall(r"[ ░▒▓█]([^ ░▒▓█]+)", row[17:])
        for layer, word in enumerate(words):
            text = lens[layer][position][0][2].strip()
            assert text.startswith(word.removesuffix("…")), (layer, position)
    assert len(rows) == 6 and rows[5].endswith("█Paris    █Paris")
    narrow = lens.to_text(30).splitlines()
    assert max(columns(line) for line in narrow if re.match(r"\d ", line)) <= 30


def test_predictions_show_their_probabilities(tiny: mg.InterpretableModel) -> None:
    with tiny.trace(TEXT):
        state = tiny.layers[4].output[0, -1].save()
    found = tiny.get_token_predictions(state, top_k=2)
    _, first, second = found.to_text().splitlines()
    assert first.startswith(f"rank 1 Paris  {found.item(rank=1):.3f}  █")
    assert second.startswith("rank 2 Madrid")


def test_one_position_is_a_list_a_line_a_layer(tiny: mg.InterpretableModel) -> None:
    lens = tiny.logit_lens(TEXT, position=-1, top_k=2, tokens=[" Paris", " Rome"])
    head, labels, *rows = lens.to_text().splitlines()
    assert labels.split()[:6] == ["layer", "entropy", "Paris", "rank", "Rome", "rank"]
    assert len(rows) == 6 and rows[-1].split()[2:4] == ["99.9%", "1"]
    assert "after 'is' (position 5)" in head


def test_a_lens_at_several_positions_is_that_part_of_the_whole(
    tiny: mg.InterpretableModel,
) -> None:
    whole, part = tiny.logit_lens(TEXT, top_k=2), tiny.logit_lens(TEXT, top_k=2, position=[5, 1])
    assert part.axes["position"] == (5, 1) and part.tokens == [whole.tokens[5], whole.tokens[1]]
    for layer in whole:
        for found, position in zip(part[layer], (5, 1), strict=True):
            assert [one[0] for one in found] == [one[0] for one in whole[layer][position]]
    assert np.allclose(np.asarray(part), np.asarray(whole.isel(position=[5, 1])), atol=1e-6)
    with pytest.raises(InputError, match="no positions"):
        tiny.logit_lens(TEXT, position=[])


def test_json_of_a_lens_has_all_that_it_found(tiny: mg.InterpretableModel) -> None:
    lens = tiny.logit_lens(TEXT, top_k=2, token=" Paris")
    attrs = json.loads(lens.to_json())["attrs"]
    best = attrs["predictions"][5][5][0]
    assert (best["id"], best["score"], best["token"]) == lens[5][5][0]
    assert attrs["rank"] == np.asarray(lens.rank).tolist()
    assert attrs["entropy"] == np.asarray(lens.entropy).tolist()
    assert mg.Effects.from_json(lens.to_json()) == lens
