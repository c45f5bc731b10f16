"""What goes to a folder comes back: each prompt's own rows, by site, by prompt, in batches."""

from __future__ import annotations

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.analysis.positions_kept import kept
from mlxgraph.analysis.rows_of import RowsOf
from mlxgraph.analysis.to_disk import to_disk
from mlxgraph.errors import InputError, NoPromptError, UnknownNameError
from mlxgraph.store import batches as batches_file
from mlxgraph.store import writer
from tests.architectures import configs
from tests.dear import dear
from tests.models import HEADS, VOCABULARY, WIDTH, make_llama, same

SITES = "layers.*.mlp"
NAMES = [f"model.layers.{n}.mlp" for n in range(3)]
ROWS = [[(7 * n + 3 * k) % VOCABULARY for k in range(1 + 5 * n % 9)] for n in range(23)]
SHARD = 6_000  # bytes: several prompts in each, and several shards


def ends(tokens):
    """The first position and the last."""
    return [0, len(tokens) - 1]


def odd(tokens):
    """A mask: tokens with odd ids, and the last in any case."""
    return [token % 2 == 1 for token in tokens[:-1]] + [True]


def expected(model, row, positions, reduce):
    """One prompt by hand: a trace of it alone, indexed with numpy."""
    with model.trace([row]):
        value = model.layers[1].mlp.output.save()
    whole = np.array(value)[0]
    at = {"all": slice(None), "last": -1}.get(positions, positions) if isinstance(
        positions, str
    ) else positions(row) if callable(positions) else positions  # fmt: skip
    found = whole[np.flatnonzero(at) if callable(positions) and positions is odd else at]
    return found.mean(0) if reduce else found


@pytest.mark.parametrize(
    ("positions", "reduce"),
    [("all", None), ("last", None), ([0, -1], None), (ends, None), (odd, None), ("all", "mean"),
     (odd, "mean")],
)  # fmt: skip
@pytest.mark.thin(3)
def test_each_prompt_is_its_trace_alone(tied, tmp_path, positions, reduce):
    asked = {"sites": SITES, "positions": positions, "reduce": reduce}
    memory = mg.batch_get_activations(tied, ROWS, **asked)
    asked |= {"batch_size": 2, "shard_size": SHARD}  # of like length, and so not neighbours
    store = mg.batch_get_activations(tied, ROWS, **asked, to=tmp_path / "acts")
    assert len(store) == len(ROWS) and store.sites == NAMES == list(memory)
    for number, row in enumerate(ROWS):
        wanted = mx.array(expected(tied, row, positions, reduce))
        assert same(store[NAMES[1]][number], wanted, 1e-5)
        assert same(memory[NAMES[1]][number], wanted, 1e-5)
        assert store.tokens[number].tolist() == row
    if positions == "all" and not reduce:
        assert len(store.meta["shards"]) > 3, "what is said of shards is to be seen"
    assert not same(store[NAMES[1]][3], store[NAMES[0]][3], 1e-3), "sites differ"


def test_positions_that_are_kept_are_said(tied, tmp_path):
    store = mg.get_activations(tied, ROWS, sites=SITES, positions=odd, to=tmp_path / "acts")
    assert [at.tolist() for at in store.positions] == [
        np.flatnonzero(odd(r)).tolist() for r in ROWS
    ]
    assert store.rows == sum(sum(odd(row)) for row in ROWS)


def test_a_store_reads_by_any_name_by_number_and_by_slice(tied, tmp_path):
    store = mg.get_activations(
        tied, ROWS, [1, "layers.2.mlp"], to=tmp_path / "acts", shard_size=900
    )
    memory = mg.get_activations(tied, ROWS, [1, "layers.2.mlp"])
    assert store.sites == ["layer_1", "layers.2.mlp"] == list(memory)
    for name in ("layer_1", "layers.1", "model.layers.1", "model.model.layers.1", tied.layers[1]):
        assert name in store
        assert same(store[name][:], memory["layer_1"], 1e-5)
    site = store["model.layers.2.mlp"]
    assert site.shape == (len(ROWS), WIDTH) and site.dtype == mx.float32 and len(site) == len(ROWS)
    assert same(site[-1], site[len(ROWS) - 1], 0.0)
    assert same(mx.stack(list(site)), site[:], 0.0)
    assert same(site.rows(2, 9), site[2:9], 0.0)
    assert [t.tolist() for t in store.tokens[2:4]] == ROWS[2:4]
    assert list(store.prompts) == list(range(len(ROWS))) and store.finished
    assert "23 prompts" in repr(store) and str(tmp_path) in repr(store)
    with pytest.raises(UnknownNameError, match="layers.2.mpl"):
        store["layers.2.mpl"]
    for number in (len(ROWS), -len(ROWS) - 1, "x"):
        with pytest.raises(NoPromptError, match="there is no prompt"):
            site[number]


def test_any_reader_of_safetensors_reads_a_shard(tied, tmp_path):
    store = mg.get_activations(tied, ROWS, sites=SITES, positions="all", to=tmp_path / "acts")
    whole = mx.load(str(store.path / store.meta["shards"][0]["file"]))
    assert same(whole[NAMES[2]], store[NAMES[2]].rows(), 0.0)
    assert whole["__tokens__"].tolist() == [token for row in ROWS for token in row]


@pytest.mark.parametrize("dtype", [None, mx.bfloat16, mx.float16, mx.float32])
def test_bits_come_back_in_each_dtype(tmp_path, dtype):
    model = mg.InterpretableModel(make_llama())
    model.module.set_dtype(mx.bfloat16)
    asked = {"sites": SITES, "positions": "all", "dtype": dtype}
    store = mg.batch_get_activations(model, ROWS, **asked, batch_size=8, to=tmp_path / "acts")
    memory = mg.batch_get_activations(model, ROWS, **asked, batch_size=8)
    assert store[NAMES[0]].dtype == (dtype or mx.bfloat16)
    for number in range(len(ROWS)):
        assert same(store[NAMES[0]][number], memory[NAMES[0]][number], 0.0)
    shuffled = mx.concatenate(list(store.batches(NAMES[0], 7, seed=1)))
    assert shuffled.dtype == (dtype or mx.bfloat16) and shuffled.shape == store[NAMES[0]].shape


def test_arrays_of_custom_models(chain, tmp_path):
    rows = [mx.random.normal((2 + n % 3, 6)) for n in range(7)]
    store = mg.get_activations(chain, rows, [1], "all", to=tmp_path / "acts")
    for number, row in enumerate(rows):
        with chain.trace(row[None]):
            wanted = chain.layers[1].output.save()
        assert same(store["layer_1"][number], wanted[0], 1e-6)
    with pytest.raises(ValueError, match="has no token ids"):
        store.tokens  # noqa: B018


def test_collect_activations_keeps_all_positions(tied, tmp_path):
    store = mg.collect_activations(tied, ROWS, ["layers.1.mlp"], to=tmp_path / "acts")
    assert same(store["layers.1.mlp"][4], mx.array(expected(tied, ROWS[4], "all", None)), 1e-5)
    every = mg.collect_activations(tied, ROWS[:3], to=tmp_path / "every")
    with tied.trace(ROWS[:3]) as trace:
        pass
    assert every.sites == list(trace.activations)
    assert every["layers.1.self_attn.rope"].shape[1:] == (4, 8)  # heads, head dimension


# -- batches ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A store whose rows are all different, in several shards."""
    model = mg.InterpretableModel(make_llama())
    folder = tmp_path_factory.mktemp("numbered") / "acts"
    return mg.get_activations(
        model, ROWS, sites=SITES, positions="all", to=folder, shard_size=SHARD
    )


def as_rows(arrays):
    """Rows as bytes, to be counted."""
    return [row.tobytes() for array in arrays for row in np.array(array)]


@pytest.mark.parametrize("buffer", [1, 4_000, 1 << 20])
@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_batches_have_every_row_once(numbered, monkeypatch, buffer, size):
    monkeypatch.setattr(batches_file, "PIECE", 700)  # several rows each, and many of them
    whole = as_rows([numbered[NAMES[1]].rows()])
    made = list(numbered.batches(NAMES[1], size, seed=5, buffer=buffer))
    assert [len(batch) for batch in made[:-1]] == [size] * (len(made) - 1)
    assert sorted(as_rows(made)) == sorted(whole) and as_rows(made) != whole
    again = numbered.batches(NAMES[1], size, seed=5, buffer=buffer)
    assert as_rows(again) == as_rows(made)
    assert as_rows(numbered.batches(NAMES[1], size, seed=6, buffer=buffer)) != as_rows(made)
    assert as_rows(numbered.batches(NAMES[1], size, buffer=buffer)) == whole
    dropped = list(numbered.batches(NAMES[1], size, seed=5, buffer=buffer, drop_last=True))
    assert len(dropped) == len(whole) // size


def test_batches_of_several_sites_have_the_same_rows(numbered):
    (batch,) = numbered.batches(NAMES[:2], 1000, seed=0)
    alone = [next(numbered.batches(name, 1000, seed=0)) for name in NAMES[:2]]
    assert list(batch) == NAMES[:2]
    first = {row: n for n, row in enumerate(as_rows([numbered[NAMES[0]].rows()]))}
    order = [first[row] for row in as_rows([batch[NAMES[0]]])]
    assert same(batch[NAMES[1]], numbered[NAMES[1]].rows()[mx.array(order)], 0.0)
    assert sorted(as_rows([batch[NAMES[1]]])) == sorted(as_rows(alone[1:]))
    with pytest.raises(InputError, match="one row"):
        numbered.batches(NAMES[0], 0)


# -- runs ------------------------------------------------------------------------------------------


def test_a_finished_run_is_given_back_without_a_forward(tied, tmp_path, monkeypatch):
    asked = {"sites": SITES, "positions": odd, "to": tmp_path / "acts"}
    store = mg.get_activations(tied, iter(ROWS), **asked)
    before = (store.path / "index-rank000.jsonl").read_bytes()
    calls = []
    real = nn.Embedding.__call__
    monkeypatch.setattr(
        nn.Embedding, "__call__", lambda self, ids: calls.append(ids.shape) or real(self, ids)
    )
    again = mg.get_activations(tied, (row for row in ROWS), **asked)
    assert (store.path / "index-rank000.jsonl").read_bytes() == before
    assert same(again[NAMES[0]].rows(), store[NAMES[0]].rows(), 0.0)
    assert not [shape for shape in calls if shape[0] > 1]
    tied.refresh()  # the control: another folder needs forwards
    mg.get_activations(tied, ROWS, sites=SITES, positions=odd, to=tmp_path / "other")
    assert [shape for shape in calls if shape[0] > 1]


def test_an_iterator_is_walked_as_its_prompts_are_needed(tied, tmp_path):
    """A stream that breaks has had its blocks written, and goes on from there."""
    given = []

    def stream(broken):
        for number, row in enumerate(ROWS):
            if broken and number == 15:
                raise RuntimeError("the network is gone")
            given.append(number)
            yield row

    asked = {"sites": SITES, "positions": "all", "to": tmp_path / "acts", "shard_size": SHARD}
    with pytest.raises(RuntimeError, match="the network is gone"):
        mg.get_activations(tied, stream(True), **asked)
    partial = mg.ActivationStore(tmp_path / "acts", partial=True)
    assert 5 < len(partial) < 15 and not partial.finished
    with pytest.raises(ValueError, match="unfinished"):
        mg.ActivationStore(tmp_path / "acts")
    store = mg.get_activations(tied, stream(False), **asked)
    assert len(store) == len(ROWS) and given == [*range(15), *range(23)]
    whole = mg.get_activations(tied, ROWS, **{**asked, "to": tmp_path / "at once"})
    assert same(store[NAMES[2]].rows(), whole[NAMES[2]].rows(), 1e-6)


@pytest.mark.parametrize("worlds", [[(0, 2), (1, 2)], [(1, 3), (0, 2), (1, 2)]])
def test_ranks_share_a_folder_and_the_reader_orders_prompts(tied, tmp_path, worlds):
    chosen = {name: name for name in NAMES}
    for rank, world in worlds:
        store = to_disk(
            tied, ROWS, chosen, kept("all", None), tmp_path / "acts", shard_size=SHARD, rank=rank,
            world=world,
        )  # fmt: skip
    whole = mg.ActivationStore(tmp_path / "acts")
    alone = mg.get_activations(tied, ROWS, sites=SITES, positions="all", to=tmp_path / "alone")
    assert {shard["file"][:7] for shard in whole.meta["shards"]} == {"rank000", "rank001"}
    assert store.finished and [t.tolist() for t in whole.tokens] == ROWS
    assert same(whole[NAMES[1]].rows(), alone[NAMES[1]].rows(), 1e-6)


def test_the_manifest_says_what_was_asked(numbered):
    meta = json.loads(json.dumps(numbered.meta))
    assert meta["question"]["positions"] == "all" and meta["versions"]["mlx"]
    assert [site["name"] for site in meta["question"]["sites"]] == NAMES


def test_memory_does_not_grow_with_the_number_of_prompts(tied, tmp_path, monkeypatch):
    """MLX's peak, for 64 and for 1,024 prompts."""
    batch = 16 * 12 * 3 * WIDTH * 4
    monkeypatch.setattr(writer, "WAITING", batch)  # however slow the disk
    rows = [[(7 * n + k) % VOCABULARY for k in range(12)] for n in range(1024)]

    def peak(count):
        asked = {"sites": SITES, "positions": "all", "batch_size": 16}
        mg.batch_get_activations(tied, rows[:16], **asked, to=tmp_path / f"warm {count}")
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mg.batch_get_activations(tied, rows[:count], **asked, to=tmp_path / f"{count}")
        return mx.get_peak_memory() - before

    few, many = peak(64), peak(1024)
    assert many < few + 3 * batch, (few, many)
    assert 1024 // 16 * batch > 2 * few, "the result itself would be seen"


def test_a_forward_has_as_many_prompts_as_the_limits_allow(tied, tmp_path, monkeypatch, capsys):
    seen = []
    real = RowsOf.__call__
    monkeypatch.setattr(
        RowsOf, "__call__", lambda self, rows, at: seen.append(len(rows)) or real(self, rows, at)
    )
    asked = {"sites": SITES, "positions": "all"}
    mg.get_activations(tied, ROWS, **asked, to=tmp_path / "a")
    mg.get_activations(tied, ROWS, **asked, to=tmp_path / "b", memory_limit=1)
    mg.batch_get_activations(tied, ROWS, **asked, to=tmp_path / "c", batch_size=9)
    assert capsys.readouterr().err == ""
    mg.batch_get_activations(tied, ROWS, **asked, to=tmp_path / "d", batch_size=23, progress=True)
    assert seen == [23, *[1] * 23, 9, 9, 5, 23]
    assert "23/23" in capsys.readouterr().err


def test_sites_inside_and_inputs_of_modules(tied, tmp_path):
    names = ["layers.1.mlp.input", "layers.1.attn.heads", "layers.2.input"]
    store = mg.get_activations(tied, ROWS, sites=names, positions=[0, -1], to=tmp_path / "acts")
    memory = mg.get_activations(tied, ROWS, sites=names, positions=[0, -1])
    assert store.sites == names == list(memory)
    for name in names:
        assert same(store[name][:], memory[name], 1e-5)
    assert store["layers.1.attn.heads"].shape == (2 * len(ROWS), HEADS, WIDTH // HEADS)


@pytest.mark.parametrize("name", ["mamba", *dear("gemma2", "gemma3n", "mixtral", "qwen3_next")])
def test_models_of_other_kinds(tmp_path, name):
    """One cannot mask, one passes on several streams, one has experts, ..."""
    model = mg.InterpretableModel(configs.build(name))
    rows = [[7, 21, 3, 88, 40], [5, 6], [9, 8, 7]]
    store = mg.get_activations(model, rows, [1], "all", to=tmp_path / "acts")
    memory = [mg.get_activations(model, row, [1], list(range(len(row)))) for row in rows]
    for number, one in enumerate(memory):
        assert same(store["layer_1"][number], one["layer_1"][0], 1e-4)
