"""What a folder refuses, and what it keeps: full disks, damage, other models, other prompts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import InputError, PositionError, StoreError, StoreWriteError
from mlxgraph.store.files import held
from tests.models import make_llama, same
from tests.store.test_store import NAMES, ROWS, SHARD, SITES


def collect(model, folder, prompts=ROWS, **asked):
    """The line of all these tests."""
    asked = {"sites": SITES, "positions": "all", "shard_size": SHARD, **asked}
    return mg.get_activations(model, prompts, **asked, to=folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A finished folder, which tests copy."""
    folder = tmp_path_factory.mktemp("written") / "acts"
    collect(mg.InterpretableModel(make_llama()), folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "acts")


def refused(model, folder, match, **asked):
    """The line raises, and the folder is as it was."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StoreError, match=match):
        collect(model, folder, **asked)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# -- the folder of something else ------------------------------------------------------------------


def test_another_model_is_refused(tied, fresh, folder):
    collect(tied, folder)  # the control
    refused(fresh, folder, "another model")
    other = mg.InterpretableModel(make_llama())
    weight = other.module.model.layers[2].mlp.down_proj.weight
    weight[3, 4] += 1e-4  # one number of one weight
    refused(other, folder, "another model, or its weights have changed")
    other = mg.InterpretableModel(make_llama())
    other.module.model.norm.eps *= 2
    refused(other, folder, "another model")
    refused(tied.edit(mg.edit("layers.1", iv.scale(2.0))), folder, "a model with other edits")


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"sites": "layers.*.self_attn"}, "other sites: model.layers.0.mlp"),
        ({"positions": -1}, r"positions='all', and this is positions=\[-1\]"),
        ({"reduce": "mean"}, "and this is"),
        ({"dtype": mx.float16}, "float16"),
        ({"shard_size": SHARD + 1}, "Leave shard_size out"),
        ({"prompts": ROWS[:-1]}, "other prompts"),
        ({"prompts": [*ROWS, [1]]}, "other prompts"),
        ({"prompts": ROWS[:6]}, "other prompts"),
        ({"prompts": [*ROWS[:9], [5], *ROWS[10:]]}, "other prompts"),
    ],
)
def test_another_question_is_refused(tied, folder, asked, match):
    refused(tied, folder, match, **asked)


def test_other_prompts_are_refused_where_the_run_was_stopped(tied, folder):
    index = folder / "index-rank000.jsonl"
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(b"".join(lines[:-1]))  # without the end
    refused(tied, folder, "other prompts", prompts=[*ROWS[:9], [5], *ROWS[10:]])
    assert len(collect(tied, folder)) == len(ROWS)


def test_a_function_is_known_by_what_it_gives(tied, tmp_path):
    collect(tied, tmp_path / "acts", positions=lambda tokens: [0])
    collect(tied, tmp_path / "acts", positions=lambda tokens: [False] * 0 + [0])
    refused(tied, tmp_path / "acts", "other positions", positions=lambda tokens: [-1])


def test_a_newer_version_and_other_files_are_refused(tied, folder, tmp_path):
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(text), "version": 2}))
    refused(tied, folder, "of version 2 of their format.*reads versions up to 1")
    with pytest.raises(StoreError, match="Update mlxgraph"):
        mg.ActivationStore(folder)
    manifest.write_text(text[: len(text) // 2])
    refused(tied, folder, "is no manifest")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    refused(tied, tmp_path / "mine", "other files, such as thesis.tex")
    with pytest.raises(StoreError, match="there are no activations in"):
        mg.ActivationStore(tmp_path / "mine")


def test_two_processes_of_one_rank_do_not_write_at_once(tied, folder):
    with held(folder / "rank000.lock"):
        collect(tied, folder)  # which is finished: nobody writes
        shards(folder)[0].unlink()
        refused(tied, folder, "another process is writing")
    collect(tied, folder)


# -- disks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync", "rename"])
@pytest.mark.parametrize("at", [1, 2, 9])
@pytest.mark.thin(3)
def test_a_full_disk_keeps_what_is_written_and_the_line_goes_on(
    tied, tmp_path, monkeypatch, call, at
):
    left, real = [at], getattr(os, call)

    def full(*args, **kwargs):
        left[0] -= 1
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    threads = threading.active_count()
    monkeypatch.setattr(os, call, full)
    with pytest.raises(
        StoreWriteError, match="No space left.*\n.*prompts are written whole"
    ) as said:
        collect(tied, tmp_path / "acts")
    assert said.value.errno == errno.ENOSPC and isinstance(said.value, OSError)
    assert threading.active_count() == threads
    monkeypatch.undo()
    if (tmp_path / "acts" / "manifest.json").exists():
        partial = mg.ActivationStore(tmp_path / "acts", partial=True)
        partial.verify()
        assert f"{len(partial)} prompts are written" in str(said.value)
        assert len(partial) >= (at - 1 if call == "posix_fallocate" else 0)
    assert len(collect(tied, tmp_path / "acts")) == len(ROWS)


def test_a_folder_that_cannot_be_written_to(tied, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreWriteError, match="cannot write to"):
        collect(tied, tmp_path / "file" / "acts")
    real = os.open

    def read_only(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(StoreWriteError, match="Read-only file system"):
        collect(tied, tmp_path / "acts")


def test_a_finished_folder_that_may_only_be_read_is_given_back(tied, folder, monkeypatch):
    real = os.open

    def read_only(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)
    assert len(collect(tied, folder)) == len(ROWS)
    shards(folder)[0].unlink()  # the control: now there is something to write
    with pytest.raises(StoreWriteError, match="Read-only file system"):
        collect(tied, folder)


# -- damage ----------------------------------------------------------------------------------------


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def spoilt(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def no_header(path):
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("which", "damage"),
    [(1, cut_short), (0, no_header), (-1, spoilt), (2, os.unlink), (-1, os.unlink)],
)
def test_a_torn_shard_is_found_and_redone(tied, folder, which, damage):
    whole = mg.ActivationStore(folder)[NAMES[1]].rows()
    damage(shards(folder)[which])
    with pytest.raises(StoreError, match="not as they were written"):
        mg.ActivationStore(folder).verify()
    if damage is not spoilt:
        with pytest.raises(StoreError, match="damaged, or is not there"):
            mg.ActivationStore(folder)[NAMES[1]].rows()
        with pytest.raises(StoreError) as said:
            for _ in mg.ActivationStore(folder).batches(NAMES[1], 4, seed=0):
                pass
        assert said.traceback[-1].path.name == "test_refused.py"
    untouched = {path: path.stat().st_mtime_ns for path in shards(folder)}
    store = collect(tied, folder)
    store.verify()
    assert same(store[NAMES[1]].rows(), whole, 1e-6)
    redone = [path for path in shards(folder) if path.stat().st_mtime_ns != untouched.get(path)]
    assert len(redone) == 1


def test_a_spoilt_shard_far_back_is_found_by_verify_and_redone_once_it_is_deleted(tied, folder):
    spoilt(shards(folder)[1])
    collect(tied, folder)  # what is read at once when a run goes on is the latest shard alone
    with pytest.raises(StoreError, match=shards(folder)[1].name):
        mg.ActivationStore(folder).verify()
    shards(folder)[1].unlink()
    collect(tied, folder).verify()


@pytest.mark.parametrize("tail", [b'{"check":1,"entry":{"blo', b"\x00" * 40, b"null\n", b"[1]\n"])
def test_half_a_line_of_an_index_counts_as_none(tied, folder, tail):
    index = folder / "index-rank000.jsonl"
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(b"".join(lines[:-2]) + tail)  # the last shard's line, and the end
    assert not mg.ActivationStore(folder, partial=True).finished
    store = collect(tied, folder)
    assert len(store) == len(ROWS)
    store.verify()


def test_a_line_that_a_disk_has_spoilt_counts_as_none(tied, folder):
    index = folder / "index-rank000.jsonl"
    text = index.read_text()
    index.write_text(text.replace('"first":0,', '"first":4,', 1))
    assert len(mg.ActivationStore(folder, partial=True)) < len(ROWS)
    assert len(collect(tied, folder)) == len(ROWS)


def test_a_shard_that_no_index_has_is_deleted(tied, folder):
    """Of a rank that was killed after the last rename, where another has done its block since."""
    left = folder / "rank000-block00000077.safetensors"
    shutil.copy(shards(folder)[0], left)
    shards(folder)[1].unlink()
    store = collect(tied, folder)
    assert not left.exists() and len(shards(folder)) == len(store.meta["shards"])


# -- prompts and arguments -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "match"),
    [(None, "prompt 12 cannot be tokenised"), (object(), "prompt 12"), ("text", "tokenizer"),
     ([], "prompt 12"), (7, "prompt 12 is 7, one number"), ([1, -5], "-5"),
     ([1, 99], "vocabulary of 50")],
)  # fmt: skip
def test_a_prompt_that_is_none_raises_and_what_came_before_stays(tied, tmp_path, prompt, match):
    rows = [*ROWS[:12], prompt, *ROWS[13:]]
    with pytest.raises(ValueError, match=match):
        collect(tied, tmp_path / "acts", rows)
    partial = mg.ActivationStore(tmp_path / "acts", partial=True)
    assert 0 < len(partial) <= 12
    partial.verify()
    assert len(collect(tied, tmp_path / "acts", [*ROWS[:12], [3], *ROWS[13:]])) == len(ROWS)


def test_text_that_no_tokenizer_takes(tmp_path):
    model = mg.tiny()
    with pytest.raises(InputError, match="prompt 1 cannot be tokenised"):
        mg.get_activations(model, ["fine", "\ud800"], positions="all", to=tmp_path / "acts")


@pytest.mark.parametrize(
    ("asked", "kind", "match"),
    [
        ({"positions": lambda tokens: []}, InputError, "no position of prompt 0 is kept"),
        ({"positions": lambda tokens: [len(tokens)]}, PositionError, "outside prompt 0"),
        ({"positions": "first"}, InputError, "'all', or a function"),
        ({"positions": []}, InputError, "there are no positions"),
        ({"reduce": "sum"}, InputError, "reduce='mean'"),
        ({"dtype": mx.int32}, InputError, "cannot be kept in"),
        ({"dtype": "float16"}, InputError, "dtype=mx.float16"),
        ({"layers": [1]}, InputError, "mean the same"),
        ({"shard_size": 0}, InputError, "number of bytes"),
        ({"prompts": []}, InputError, "there are no prompts"),
        ({"sites": "layers.1.attn.pattern"}, ValueError, "several axes of positions"),
    ],
)
def test_arguments_without_meaning_raise_and_make_no_folder(tied, tmp_path, asked, kind, match):
    with pytest.raises(kind, match=match):
        collect(tied, tmp_path / "acts", **asked)
    assert not (tmp_path / "acts").exists()


def test_options_of_folders_are_refused_without_one(tied):
    for name in ("memory_limit", "shard_size"):
        with pytest.raises(InputError, match=f"{name}= is for activations that go to a folder"):
            mg.batch_get_activations(tied, ROWS, **{name: 1 << 20})


def test_values_that_float16_lacks_are_not_made_infinite(tmp_path):
    model = mg.InterpretableModel(make_llama())
    large = model.edit(mg.edit("layers.1.mlp", iv.scale(1e6)))
    with pytest.raises(InputError, match=r"layers.1.mlp has values beyond 65,504.*\n.*bfloat16"):
        collect(large, tmp_path / "acts", dtype=mx.float16)
    assert len(collect(large, tmp_path / "other", dtype=mx.bfloat16)) == len(ROWS)
