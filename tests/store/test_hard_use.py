"""What a hasty user gives and does: an error of ours on their line, or the right numbers."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import InputError, MLXGraphError, ShapeError, StoreError
from mlxgraph.store.files import held
from tests.models import same
from tests.store.test_disks import as_one_who_is_not_root, others_folder  # noqa: F401 - a fixture
from tests.store.test_refused import collect, folder, shards, written  # noqa: F401 - fixtures
from tests.store.test_store import NAMES, ROWS


def refused(call, match, kind=InputError):
    """The error ends at the line of the test."""
    with pytest.raises(kind, match=match) as said:
        call()
    assert "mlxgraph/" not in str(said.traceback[-1].path).replace(str(Path.cwd()), "")


@pytest.mark.parametrize(
    ("positions", "match"),
    [
        (lambda tokens: [True], "gave 1 times True or False for prompt 0, which has 3"),
        (lambda tokens: [True] * 4, "gave 4 times True or False"),
        (lambda: [0], "cannot be called with a prompt"),
        ([True, False, True], "no whole number"), (True, "no whole number"),
        (1.0, "no whole number"), (None, "no whole number"), (slice(2), "no whole number"),
    ],
)  # fmt: skip
def test_odd_positions(tied, tmp_path, positions, match):
    refused(lambda: collect(tied, tmp_path / "a", [[1, 2, 3]], positions=positions), match)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("prompts", "match"),
    [
        ([[1], [1, 1 << 31]], "prompt 1 has 2147483648 among its token ids"),
        ([[1 << 70]], "no vocabulary has"),
        ([np.array([1 << 40])], "no vocabulary has"),
        ([[1], b"text"], "prompt 1 cannot be tokenised: TypeError: bytes"),
        ([], "there are no prompts"),
        ([[1], []], "no position of prompt 1 is kept: it has no tokens"),
    ],
)
def test_odd_prompts(tied, tmp_path, prompts, match):
    refused(lambda: collect(tied, tmp_path / "a", prompts), match)


def test_a_positions_function_may_change_what_it_is_given(tied, tmp_path):
    rows = [[1, 2, 3], [4, 5]]
    store = collect(tied, tmp_path / "a", rows, positions=lambda tokens: [tokens.pop() and 0])
    assert rows == [[1, 2, 3], [4, 5]] == [one.tolist() for one in store.tokens]


@pytest.mark.parametrize("given", [5, "", "a\0b"])
def test_odd_folders(tied, given):
    refused(lambda: collect(tied, given), "folder")
    refused(lambda: mg.ActivationStore(given), "folder")


def test_a_file_is_no_folder_and_a_path_may_be_bytes(tied, tmp_path):
    (tmp_path / "file").write_text("")
    refused(lambda: collect(tied, tmp_path / "file"), "is a file, and no folder", StoreError)
    assert len(collect(tied, os.fsencode(tmp_path / "acts"), ROWS[:3])) == 3


def test_odd_sizes(tied, folder, tmp_path):  # noqa: F811
    store = mg.ActivationStore(folder)
    for asked in ({"size": 4.0}, {"size": 4, "seed": -1}, {"size": 4, "buffer": "1 GB"}):
        refused(lambda: store.batches(NAMES[0], **asked), "no whole number from 0 on")  # noqa: B023
    refused(lambda: collect(tied, tmp_path / "a", shard_size=True), "no number of bytes")
    refused(lambda: mg.batch_get_activations(tied, ROWS, batch_size=1.5), "no whole number")
    refused(lambda: collect(tied, tmp_path / "a", sites=[]), "no site is to be kept")


class Shorter(nn.Module):
    """Modules that give every second position, the last one, and positions before rows."""

    class Cut(nn.Module):
        def __init__(self, cut):
            super().__init__()
            self._cut = cut

        def __call__(self, x):
            return self._cut(x)

    def __init__(self):
        super().__init__()
        self.embed, self.layers = nn.Embedding(50, 8), [nn.Linear(8, 8)]
        self.half, self.last = self.Cut(lambda x: x[:, ::2]), self.Cut(lambda x: x[:, -1:])
        self.swapped = self.Cut(lambda x: x.swapaxes(0, 1))

    def __call__(self, tokens):
        h = self.layers[0](self.embed(tokens))
        return h + 0 * (self.half(h)[:, :1] + self.last(h) + self.swapped(h).swapaxes(0, 1))


@pytest.mark.parametrize("rows", [[[1], [2, 3, 4], [5, 6]], [[1], [2, 3]], [[1, 2], [1]]])
@pytest.mark.parametrize("asked", [{"positions": "all"}, {"positions": "all", "reduce": "mean"}])
def test_positions_that_are_not_those_of_the_prompts(tmp_path, rows, asked):
    model = mg.InterpretableModel(Shorter())
    for site in ("half", "last"):
        refused(
            lambda: mg.get_activations(model, rows, sites=site, **asked, to=tmp_path / "a"),  # noqa: B023
            "has no positions",
            ShapeError,
        )
    store = mg.get_activations(model, rows, sites="swapped", positions="all", to=tmp_path / "b")
    for number, row in enumerate(rows):
        assert same(
            store["swapped"][number],
            model.layers[0].module(model.module.embed(mx.array(row))),
            1e-5,
        )


# -- folders that others have had in their hands ---------------------------------------------------


def changed(folder, check=True, site=None, **question):  # noqa: F811
    """A manifest that somebody edited; without its checksum, which older ones have not."""
    path = folder / "manifest.json"
    found = json.loads(path.read_text())
    found["question"].update(question)
    found["question"]["sites"][0].update(site or {})
    if not check:
        found.pop("check", None)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    "edit",
    [{"reduce": "mean"}, {"single": True}, {"site": {"dtype": "float16"}}, {"positions": [0]}],
)
def test_a_manifest_that_was_edited(tied, folder, edit):  # noqa: F811
    changed(folder)  # the control: written anew, and the same
    assert len(collect(tied, folder)) == len(ROWS)
    changed(folder, **edit)
    refused(lambda: mg.ActivationStore(folder), "has been changed since", StoreError)
    refused(lambda: collect(tied, folder), "has been changed since", StoreError)


@pytest.mark.parametrize("site", [{"dtype": "float16"}, {"shape": [16]}, {"name": "other"}])
def test_a_shard_holds_what_the_manifest_says(folder, site):  # noqa: F811
    changed(folder, check=False)  # the control
    name = mg.ActivationStore(folder).sites[0]
    assert mg.ActivationStore(folder)[name][0].shape == (1, 32)
    changed(folder, check=False, site=site)
    store = mg.ActivationStore(folder)
    for way in (lambda: store[store.sites[0]][0], lambda: next(store.batches(store.sites[0], 4))):
        refused(way, "is not of this folder", StoreError)


@pytest.mark.parametrize(
    "site", [{"dtype": "float7"}, {"shape": [-1]}, {"shape": "x"}, {"size": 3}]
)
def test_a_manifest_of_nonsense(folder, site):  # noqa: F811
    changed(folder, check=False, site=site)
    refused(lambda: mg.ActivationStore(folder), "is no manifest", StoreError)
    (folder / "manifest.json").write_bytes(b"\xff\xfe")
    refused(lambda: mg.ActivationStore(folder), "is no manifest", StoreError)


def test_files_that_may_not_be_read(tied, others_folder):  # noqa: F811
    others_folder.chmod(0o755)
    collect(tied, others_folder, ROWS[:4])
    index = others_folder / "index-rank000.jsonl"
    for path, mode in ((index, 0o644), (others_folder / "manifest.json", 0o600)):
        path.chmod(0)
        with as_one_who_is_not_root():
            refused(lambda: mg.ActivationStore(others_folder), "Permission denied", StoreError)
        path.chmod(mode)


# -- stores that go about --------------------------------------------------------------------------


def test_a_store_may_be_copied_and_its_reader_may_move(tied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = collect(tied, "acts")
    whole = store[NAMES[1]].rows()
    monkeypatch.chdir("/")
    fresh = [store, copy.deepcopy(store), pickle.loads(pickle.dumps(store))]
    for one in fresh:
        one.verify()
        assert same(one[NAMES[1]].rows(), whole) and one.finished


def test_a_process_that_was_forked_does_not_hold_the_folder(tmp_path):
    with held(tmp_path / "lock"):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(writing)
            os.read(reading, 1)  # until the test is over
            os._exit(0)
    with held(tmp_path / "lock"):
        pass
    with held(tmp_path / "lock"), pytest.raises(StoreError, match="another process is writing"):
        with held(tmp_path / "lock"):  # the control
            pass
    os.close(writing)
    os.close(reading)
    os.waitpid(child, 0)


def test_names_that_shards_have_for_something_else(tmp_path):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 8)
            self.__tokens__ = nn.Linear(8, 8)
            setattr(self, "x" * 3_000, nn.Linear(8, 8))

        def __call__(self, tokens):
            return self["x" * 3_000](self["__tokens__"](self.embed(tokens)))

    model = mg.InterpretableModel(Named())
    refused(
        lambda: mg.get_activations(model, [[1]], sites="__tokens__", positions="all", to=tmp_path),
        "for something else",
    )
    names = ["model.__tokens__", "x" * 3_000]
    store = mg.get_activations(model, [[1, 2], [3]], sites=names, positions="all", to=tmp_path)
    with model.trace([[3]]):
        wanted = [model["__tokens__"].output.save(), model["x" * 3_000].output.save()]
    for name, value in zip(names, wanted, strict=True):
        assert same(store[name][1], value[0], 1e-6)
    assert issubclass(StoreError, MLXGraphError) and store.tokens[0].dtype == mx.int32
