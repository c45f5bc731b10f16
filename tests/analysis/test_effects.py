"""Effects: parts by label equal parts by hand, and a file gives back what went in, bit by bit."""

from __future__ import annotations

import copy
import json
import math
import pickle
import sys
import traceback

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph.errors import (
    BoundsError,
    InputError,
    MissingDependencyError,
    MLXGraphError,
    ShapeError,
    SingleCellError,
    StepError,
    UnknownLabelError,
)

TOKENS = ["<s>", "The", " capital", " of", " The"]
NUMBERS = np.arange(15, dtype=np.float32).reshape(3, 5) - 4


def made(**more) -> mg.Effects:
    return mg.Effects(
        NUMBERS,
        {"layer": [2, 4, 7], "position": range(5)},
        coords={"token": ("position", TOKENS)},
        **more,
    )


def same(e: mg.Effects, numbers) -> bool:
    return np.array_equal(np.asarray(e), numbers, equal_nan=True)


def test_it_holds_what_it_was_given():
    e = made(name="recovery", unit="%", attrs={"baseline": 2.5, "texts": ["a", "b"]})
    assert isinstance(e.values, mx.array) and e.values.dtype == mx.float32
    assert same(e, NUMBERS) and e.shape == (3, 5) and e.dims == ("layer", "position")
    assert e.axes == {"layer": (2, 4, 7), "position": (0, 1, 2, 3, 4)}
    assert e.coords == {"token": ("position", tuple(TOKENS))}
    assert (e.name, e.unit, e.attrs) == ("recovery", "%", {"baseline": 2.5, "texts": ("a", "b")})


@pytest.mark.parametrize(
    ("labels", "numbers", "dims"),
    [
        ({"layer": 4}, NUMBERS[1], ("position",)),
        ({"layer": 4.0, "position": 0}, NUMBERS[1, 0], ()),
        ({"layer": [7, 2]}, NUMBERS[[2, 0]], ("layer", "position")),
        ({"layer": np.array([7])}, NUMBERS[[2]], ("layer", "position")),
        ({"layer": mx.array(7), "position": mx.array([1])}, NUMBERS[2, [1]], ("position",)),
        ({"layer": slice(3, 7)}, NUMBERS[1:], ("layer", "position")),
        ({"position": slice(1, 3)}, NUMBERS[:, 1:4], ("layer", "position")),
        ({"position": slice(None, None, 2)}, NUMBERS[:, ::2], ("layer", "position")),
        ({"token": " capital"}, NUMBERS[:, 2], ("layer",)),
        ({"token": [" The", "<s>"], "layer": 2}, NUMBERS[0, [4, 0]], ("position",)),
        ({}, NUMBERS, ("layer", "position")),
    ],
)
def test_sel_takes_by_label(labels, numbers, dims):
    part = made().sel(**labels)
    assert same(part, numbers) and part.dims == dims and part.shape == numbers.shape


@pytest.mark.parametrize(
    ("places", "numbers"),
    [
        ({"layer": -1}, NUMBERS[-1]),
        ({"position": slice(-2, None)}, NUMBERS[:, -2:]),
        ({"position": slice(None, None, -1)}, NUMBERS[:, ::-1]),
        ({"layer": [0, -1], "position": 3}, NUMBERS[[0, -1], 3]),
    ],
)
def test_isel_takes_by_number(places, numbers):
    assert same(made().isel(**places), numbers)


def test_labels_go_along_with_their_cells():
    part = made(unit="%").sel(token=[" of", "The"], layer=7)
    assert part.axes == {"position": (3, 1)} and part.unit == "%"
    assert part.coords == {"token": ("position", (" of", "The"))}
    assert part.attrs["at"] == {"layer": 7}
    assert part.isel(position=0).attrs["at"] == {"layer": 7, "position": 3, "token": " of"}
    assert part.item(position=1) == part.item(token="The") == NUMBERS[2, 1]


def test_texts_in_order_are_sliced_from_one_to_another():
    e = mg.Effects([1, 2, 3, 4], {"component": ["attn", "mlp", "block", "resid"]})
    assert e.sel(component=slice("mlp", "block")).axes == {"component": ("mlp", "block")}
    falling = mg.Effects([1, 2, 3], {"strength": [2.0, 0.5, -1.0]})
    assert same(falling.sel(strength=slice(2.0, 0.5)), [1, 2])


def test_numbers_of_few_bits_are_labels_as_people_write_them():
    for labels in (np.array([0.1, 0.2], np.float32), mx.array([0.1, 0.2])):
        assert mg.Effects([1, 2], {"strength": labels}).item(strength=0.2) == 2
    assert mg.Effects([1, 2], {"layer": np.arange(2)}).axes == {"layer": (0, 1)}


def test_means_and_extremes():
    e = made(attrs={"a": 1})
    assert same(e.mean("layer"), NUMBERS.mean(0)) and e.mean("layer").coords == e.coords
    assert same(e.mean(["layer", "position"]), NUMBERS.mean()) and e.mean() == NUMBERS.mean()
    assert same(e.mean("position"), NUMBERS.mean(1)) and not e.mean("position").coords
    assert e.max() == 10 and e.min() == -4
    assert e.argmax() == {"layer": 7, "position": 4} and e.argmin() == {"layer": 2, "position": 0}
    assert e.item(**e.argmax()) == e.max()


def test_an_unknown_cell_is_no_extreme_and_is_not_averaged_away():
    e = mg.Effects([[1.0, math.nan], [3.0, 5.0]], {"a": range(2), "b": range(2)})
    assert e.max() == 5 and e.argmin() == {"a": 0, "b": 0}
    assert same(e.mean("a"), [2.0, math.nan]) and math.isnan(e.mean())
    nothing = mg.Effects([math.nan], {"a": range(1)})
    with pytest.raises(InputError, match="all cells are NaN"):
        nothing.max()
    assert "all NaN" in repr(nothing) and "1 NaN" in repr(e)


def test_it_does_not_change():
    given = mx.array(NUMBERS)
    e = mg.Effects(given, made().axes)
    given[0, 0] = 99
    values = e.values
    values += 1
    e.axes["layer"] = e.coords["token"] = e.attrs["x"] = ()
    np.asarray(e)[0, 0] = 99
    assert same(e, NUMBERS) and float(values[0, 0]) == -3 and e == mg.Effects(NUMBERS, made().axes)
    with pytest.raises(InputError, match="mx.array"):
        e.values[0, 0] = 1
    with pytest.raises(AttributeError):
        e.name = "other"
    mine = mx.array(e.values)
    mine[0, 0] = 1
    assert float(mine[0, 0]) == 1


def test_equality_is_of_the_whole_value():
    e = made()
    assert e == made() and hash(e) == hash(made()) and not (e != made())
    assert e != made(unit="%") and e != made(name="other")
    assert e != mg.Effects(NUMBERS, e.axes)
    assert e != mg.Effects(NUMBERS + 1, e.axes, coords=e.coords)
    assert (e == 3) is False
    one, other = ({"a": [0, 1], "b": [0, 1]}, {"b": [0, 1], "a": [0, 1]})
    assert mg.Effects(np.eye(2), one) != mg.Effects(np.eye(2), other)
    unknown = mg.Effects([math.nan], {"a": [0]})
    assert unknown == mg.Effects([math.nan], {"a": [0]}) and len({e, made(), unknown}) == 2


def test_one_cell_is_a_number():
    assert float(mg.Effects(2.5, {})) == 2.5 == float(mg.Effects([[2.5]], {"a": [0], "b": [0]}))
    assert float(made().sel(layer=4, position=0)) == 1.0
    with pytest.raises(SingleCellError, match="e.item\\(layer=2, position=0\\)"):
        float(made())


# -- where people want it --------------------------------------------------------------------------


def test_a_frame_has_a_row_for_each_cell():
    frame = made(name="recovery").to_frame()
    assert list(frame.columns) == ["layer", "position", "token", "recovery"] and len(frame) == 15
    row = frame[(frame.layer == 4) & (frame.token == " of")]
    assert row.recovery.tolist() == [NUMBERS[1, 3]] and str(frame.recovery.dtype) == "float32"
    pivot = frame.pivot(index="layer", columns="position", values="recovery")
    assert np.array_equal(pivot.to_numpy(), NUMBERS)
    assert mg.Effects(2.5, {}).to_frame().effect.tolist() == [2.5]


def test_xarray_selects_the_same():
    e = made(unit="%", attrs={"baseline": 2.5})
    x = e.to_xarray()
    assert x.attrs == {"baseline": 2.5, "units": "%"} and x.dims == e.dims
    assert np.array_equal(x.sel(layer=slice(3, 7)), e.sel(layer=slice(3, 7)))
    assert np.array_equal(x.sel(layer=4, position=[2, 0]), e.sel(layer=4, position=[2, 0]))
    assert x.token.values.tolist() == TOKENS
    nul = mg.Effects([1], {"p": [0]}, coords={"token": ("p", ["\x00"])})
    assert nul.to_xarray().token.values.tolist() == ["\x00"]
    assert nul.to_frame().token.tolist() == ["\x00"]


@pytest.mark.parametrize("package", ["pandas", "xarray"])
def test_without_the_package_the_error_says_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    e = made()
    use = e.to_frame if package == "pandas" else e.to_xarray
    with pytest.raises(MissingDependencyError, match=r"pip install mlxgraph\[frames\]") as caught:
        use()
    assert package in str(caught.value) and isinstance(caught.value, ImportError)


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
LABELS = st.one_of(
    st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=4)
)


@given(st.data())
def test_json_gives_back_all_of_it(data):
    axes = {
        name: data.draw(st.lists(LABELS, min_size=1, max_size=3, unique=True))
        for name in data.draw(st.lists(st.sampled_from("abc"), max_size=3, unique=True))
    }
    size = math.prod(map(len, axes.values()))
    values = data.draw(st.lists(FLOATS, min_size=size, max_size=size))
    numbers = np.array(values, np.float32).reshape([len(of) for of in axes.values()])
    coords = {"of " + name: (name, [data.draw(LABELS) for _ in of]) for name, of in axes.items()}
    e = mg.Effects(numbers, axes, coords=coords, attrs={"x": [data.draw(FLOATS), None, {"y": "z"}]})
    text = e.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    back = mg.Effects.from_json(text)
    assert back == e and repr(back.attrs) == repr(e.attrs)
    known = ~np.isnan(numbers)
    assert np.asarray(back)[known].tobytes() == np.asarray(e)[known].tobytes()
    assert [list(map(type, of)) for of in back.axes.values()] == [
        list(map(type, of)) for of in e.axes.values()
    ]


def test_a_file_gives_back_what_was_saved(tmp_path):
    e = made(attrs={"baseline": math.nan}).sel(layer=[2, 7])
    e.save(tmp_path / "e.json")
    back = mg.Effects.load(str(tmp_path / "e.json"))
    assert back == e and math.isnan(back.attrs["baseline"])
    with pytest.raises(InputError, match="to_csv"):
        e.save(tmp_path / "e.csv")
    with pytest.raises(FileNotFoundError):
        mg.Effects.load(tmp_path / "none.json")


def test_it_is_copied_and_sent_to_other_processes():
    e = made(attrs={"x": 1})
    for back in (pickle.loads(pickle.dumps(e)), copy.copy(e), copy.deepcopy(e)):
        assert back == e and back.attrs == e.attrs


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"format": "other"}', "NaN", made().to_json()[:-1]]
)
def test_other_texts_are_refused(text):
    with pytest.raises(InputError, match="no result's JSON"):
        mg.Effects.from_json(text)
    newer = made().to_json().replace('"version": 1', '"version": 2')
    with pytest.raises(InputError, match="version 2"):
        mg.Effects.from_json(newer)


# -- looking at it ---------------------------------------------------------------------------------


def test_a_line_says_what_it_is_and_where_most_of_it_is():
    assert repr(made(name="recovery", unit="%")) == (
        "Effects recovery (%): layer 3 × position 5,"
        " largest 10 at layer=7, position=4, token=' The'"
    )
    assert (
        repr(made().sel(layer=4, position=1))
        == "Effects effect: 2 (layer=4, position=1, token='The')"
    )
    long = mg.Effects([1], {"prompt": ["x" * 400 + "\n"]})
    assert "\n" not in repr(long) and len(repr(long)) < 120


def test_a_notebook_shows_a_table_with_the_tokens():
    page = made()._repr_html_()
    assert page.count("<tr>") == 2 + 3 and "' capital'".replace("'", "&#x27;") in page
    assert "&lt;s&gt;" in page and "<s>" not in page
    assert f">{NUMBERS[2, 4]:.0f}</td>" in page
    column = made().sel(layer=4)._repr_html_()
    assert column.count("<tr>") == 1 + 5 and "&lt;s&gt;" in column
    assert "<table" not in mg.Effects(1.0, {})._repr_html_()


def test_a_large_one_shows_its_edges():
    large = mg.Effects(np.zeros((7, 80, 300)), {"c": range(7), "layer": range(80), "p": range(300)})
    page = large._repr_html_()
    assert page.count("<table") == 4 and "and 3 more" in page and len(page) < 150_000
    assert ">79<" in page and ">299<" in page and ">40<" not in page


def test_in_a_block_it_is_a_plain_value(tiny):
    e = made()
    with tiny.trace("The capital of France is"):
        h = tiny.layers[2].output
        h[:, -1] *= e.sel(layer=4).values[0]
        h[:, -1, :5] += e.sel(layer=2).values
        within = mg.Effects(mx.ones((2,)), {"a": range(2)})
        looked = mg.Effects(h[0, :2, 0], {"a": range(2)})
        said = repr(within), within.mean(), within.to_json(), made()._repr_html_()
        edited = h.save()
    with tiny.trace("The capital of France is"):
        plain = tiny.layers[2].output.save()
    expected = np.array(plain[0, -1]) * NUMBERS[1, 0]
    expected[:5] += NUMBERS[0]
    assert np.abs(np.array(edited[0, -1]) - expected).max() < 1e-5
    assert said[1] == 1.0 and mg.Effects.from_json(said[2]) == within
    assert same(looked, np.array(edited[0, :2, 0])) and same(looked, np.array(plain[0, :2, 0]))


# -- results that are dicts too --------------------------------------------------------------------


class ByLayer(mg.Effects, dict):
    def __init__(self, found):
        dict.__init__(self, found)
        mg.Effects.__init__(self, list(found.values()), {"layer": list(found)})


def test_a_result_may_be_a_dict_too():
    found = {0: 1.5, 3: -2.0}
    both = ByLayer(found)
    assert both == found and not (both != found) and both != {0: 1.5} and dict(both) == found
    assert list(both.values()) == [1.5, -2.0] and list(both.items()) == list(found.items())
    assert both.values.tolist() == [1.5, -2.0] and both.values.shape == (2,)
    assert both[3] == -2.0 and len(both) == 2 and both.item(layer=3) == -2.0
    assert type(both.sel(layer=[3])) is mg.Effects and both == mg.Effects(both.values, both.axes)
    assert pickle.loads(pickle.dumps(both)) == both and repr(both).startswith("ByLayer effect")
    for values in (both.values, mg.Effects(both.values, both.axes).values):
        back = pickle.loads(pickle.dumps(values))
        assert type(back) is mx.array and back.tolist() == [1.5, -2.0]
    with pytest.raises(TypeError, match="unhashable"):
        hash(both)


# -- what it refuses -------------------------------------------------------------------------------

WRONG = {
    "an axis": (lambda e: e.sel(lyaer=3), UnknownLabelError, "Did you mean 'layer'"),
    "an axis by number": (lambda e: e.isel(token=0), UnknownLabelError, "'layer', 'position'"),
    "a mean's axis": (lambda e: e.mean("head"), UnknownLabelError, "'layer', 'position'"),
    "a label": (lambda e: e.sel(layer=3), UnknownLabelError, "There is: 2, 4, 7."),
    "a label from the end": (lambda e: e.sel(layer=-1), UnknownLabelError, r"\.isel\(layer=-1\)"),
    "a truth value": (lambda e: e.sel(position=True), UnknownLabelError, "no position True"),
    "a token": (lambda e: e.sel(token=" captial"), UnknownLabelError, "Did you mean ' capital'"),
    "an empty slice": (lambda e: e.sel(layer=slice(5, 6)), UnknownLabelError, "both ends"),
    "an empty slice by number": (lambda e: e.isel(layer=slice(5, 6)), InputError, "is empty"),
    "a step of 0": (lambda e: e.isel(layer=slice(0, 2, 0)), StepError, "step of 0"),
    "a step back": (lambda e: e.sel(layer=slice(7, 2, -1)), InputError, "isel"),
    "a slice of tokens": (lambda e: e.sel(token=slice("The", " of")), InputError, "sel\\(position"),
    "no labels": (lambda e: e.sel(layer=[]), InputError, "Leave layer= out"),
    "a label twice": (lambda e: e.sel(layer=[2, 2]), InputError, "twice"),
    "an axis twice": (lambda e: e.sel(token="The", position=1), InputError, "given twice"),
    "a number": (lambda e: e.isel(layer=3), BoundsError, "index 3"),
    "no number": (lambda e: e.isel(layer="x"), InputError, "whole numbers"),
    "a cell": (lambda e: e.item(layer=2), SingleCellError, "position 5"),
    "a shape": (lambda e: mg.Effects([1, 2], {"a": range(3)}), ShapeError, r"\(2,\).*\(3,\)"),
    "no axes": (lambda e: mg.Effects([1, 2], {}), ShapeError, r"\(2,\)"),
    "labels twice": (lambda e: mg.Effects([1, 2], {"a": [1, 1.0]}), InputError, "twice"),
    "a number of labels": (lambda e: mg.Effects([1, 2], {"a": 2}), InputError, r"range\(2\)"),
    "a text of labels": (lambda e: mg.Effects([1, 2], {"a": "xy"}), InputError, r"\['xy'\]"),
    "an odd label": (lambda e: mg.Effects([1], {"a": [None]}), InputError, "'None'"),
    "an endless label": (lambda e: mg.Effects([1], {"a": [math.inf]}), InputError, "'inf'"),
    "an empty axis": (lambda e: mg.Effects([], {"a": []}), InputError, "no cells"),
    "texts": (lambda e: mg.Effects(["x"], {"a": [0]}), InputError, "numbers"),
    "ragged values": (lambda e: mg.Effects([[1], [1, 2]], {"a": [0, 1]}), InputError, "lengths"),
    "complex values": (lambda e: mg.Effects(mx.array([1j]), {"a": [0]}), InputError, "complex"),
    "too large values": (lambda e: mg.Effects([1e300], {"a": [0]}), InputError, "too large"),
    "a coord's axis": (
        lambda e: mg.Effects([1], {"a": [0]}, coords={"t": ("b", ["x"])}),
        UnknownLabelError,
        "no axis 'b'",
    ),
    "a coord's length": (
        lambda e: mg.Effects([1], {"a": [0]}, coords={"t": ("a", "xy")}),
        InputError,
        "does not name an axis and labels",
    ),
    "a name": (lambda e: mg.Effects([1], {"effect": [0]}), InputError, "cannot name the values"),
    "attrs": (lambda e: mg.Effects([1], {"a": [0]}, attrs={"f": len}).to_json(), InputError, "'f'"),
    "a text": (lambda e: mg.Effects.from_json("{"), InputError, "to_json"),
    "a folder": (lambda e: e.save("effects"), InputError, "effects.json"),
    "an assignment": (lambda e: e.values.__setitem__(0, 1), InputError, "do not change"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_says_what_to_write_on_the_users_line(name):
    use, kind, says = WRONG[name]
    with pytest.raises(kind, match=says) as caught:
        use(made())
    assert isinstance(caught.value, MLXGraphError)
    assert {entry.filename for entry in traceback.extract_tb(caught.tb)} == {__file__}


def test_of_many_labels_the_closest_are_named():
    e = mg.Effects(np.zeros(80), {"layer": range(0, 160, 2)})
    with pytest.raises(UnknownLabelError, match=r"94, 96, 98, 100, 102, 104, 106, 108, \.\.\."):
        e.sel(layer=101)
