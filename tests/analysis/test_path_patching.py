"""Path patching: each edge equals the run that is written out by hand, and the laws of edges."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.analysis.stream_writers import residual_writers
from mlxgraph.errors import (
    BaselineError,
    BoundsError,
    InputError,
    LengthsError,
    NeverCalledError,
    PositionError,
    SweepStopped,
    TokenError,
    UnknownNameError,
    UnknownSiteError,
)
from tests.analysis.test_patching_maps import MODELS as THE_SAME
from tests.analysis.test_patching_maps import made, sorted_out
from tests.architectures import configs

CLEAN, CORRUPTED = [3, 17, 5, 9, 22, 4], [3, 17, 31, 9, 22, 4]
TEXTS = "The capital of France is", "The capital of England is"
ANSWERS: dict[str, Any] = {"metric": "logit_diff", "targets": (" Paris", " London")}
RAW: dict[str, Any] = {"metric": "logit_diff", "targets": (7, 11), "normalize": False}
OUTPUT = "__model_output__"


def diff(logits: mx.array) -> float:
    return (logits[7] - logits[11]).item()


def near(found: Any, expected: Any, share: float = 2e-4) -> None:
    found, expected = np.asarray(found), np.asarray(expected, dtype=np.float32)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= share * max(1.0, float(np.abs(expected).max()))


# -- a small llama, written out --------------------------------------------------------------------


class Written:
    """A Llama's forward by hand: every part is called here, and can be given another input."""

    def __init__(self, module: Any, ids: list[int]):
        self.model, self.head = module.model, module.lm_head
        self.ids = mx.array([ids])
        self.mask = mx.where(mx.tril(mx.ones((len(ids), len(ids)))) > 0, 0.0, -mx.inf)

    def heads(self, k: int, x: mx.array, queries_of: mx.array | None = None, only: Any = None):
        """(heads, length, head dimension) of layer k on the stream x; of some heads the queries
        are those of another stream."""
        layer = self.model.layers[k]
        attn, normed = layer.self_attn, layer.input_layernorm(x)

        def split(y: mx.array, count: int) -> mx.array:
            return y.reshape(1, y.shape[1], count, -1).transpose(0, 2, 1, 3)

        q = attn.rope(split(attn.q_proj(normed), attn.n_heads))
        if queries_of is not None:
            other = attn.rope(split(attn.q_proj(layer.input_layernorm(queries_of)), attn.n_heads))
            for h in only:
                q[:, h] = other[:, h]
        keys = attn.rope(split(attn.k_proj(normed), attn.n_kv_heads))
        values = split(attn.v_proj(normed), attn.n_kv_heads)
        share = attn.n_heads // attn.n_kv_heads
        keys, values = mx.repeat(keys, share, axis=1), mx.repeat(values, share, axis=1)
        scores = (q @ keys.transpose(0, 1, 3, 2)) * attn.scale + self.mask
        return (mx.softmax(scores, axis=-1) @ values)[0]

    def joined(self, k: int, z: mx.array) -> mx.array:
        flat = z.transpose(1, 0, 2).reshape(1, z.shape[1], -1)
        return self.model.layers[k].self_attn.o_proj(flat)

    def mlp(self, k: int, x: mx.array) -> mx.array:
        layer = self.model.layers[k]
        return layer.mlp(layer.post_attention_layernorm(x))

    def run(self, receive: dict | None = None) -> dict:
        """A forward.  Args: receive: a stream in place of the own one, for a part's input."""
        receive = receive or {}
        x = self.model.embed_tokens(self.ids)
        kept: dict[Any, mx.array] = {"embed": x}
        for k in range(len(self.model.layers)):
            kept["in", k] = x
            queries = receive.get(("queries", k))
            if queries is not None:
                z = self.heads(k, x, queries[0], queries[1])
            else:
                z = self.heads(k, receive.get(("attn", k), x))
            kept["heads", k], kept["attn", k] = z, self.joined(k, z)
            x = x + kept["attn", k]
            kept["mid", k] = x
            kept["mlp", k] = self.mlp(k, receive.get(("mlp", k), x))
            x = x + kept["mlp", k]
        kept["last"] = x
        end = receive.get("output", x)
        kept["logits"] = self.head(self.model.norm(end))[0, -1]
        return kept

    def frozen(self, base: dict, sent: dict, through: bool = False) -> dict:
        """The streams with attention (and MLPs) as in the base run, and what is sent in place."""
        x = sent.get("embed", base["embed"])
        streams = {}
        for k in range(len(self.model.layers)):
            streams["attn", k] = x
            x = x + sent.get(("attn", k), base["attn", k])
            streams["mlp", k] = x
            own = self.mlp(k, x) if through else base["mlp", k]
            x = x + sent.get(("mlp", k), own)
        streams["output"] = x
        return streams


@pytest.fixture(scope="module")
def llama() -> tuple[mg.InterpretableModel, Written, dict, dict]:
    module = configs.build("llama")
    written = Written(module, CORRUPTED)
    base, other = written.run(), Written(module, CLEAN).run()
    model = mg.InterpretableModel(module)
    with model.trace(mx.array([CORRUPTED])):
        logits = model.output[0, -1].save()
    near(base["logits"], logits, 1e-5)
    return model, written, base, other


@pytest.mark.parametrize("through", [None, "mlp"])
def test_every_edge_of_a_llama_equals_the_forward_by_hand(llama, through):
    model, written, base, other = llama
    layers = len(model.layers)
    senders: dict[Any, dict] = {"model.embed_tokens": {"embed": other["embed"]}}
    for k in range(layers):
        senders[f"layers.{k}.attn"] = {("attn", k): other["attn", k]}
        senders[f"layers.{k}.mlp"] = {("mlp", k): other["mlp", k]}
        z = mx.array(base["heads", k])
        z[2] = other["heads", k][2]
        senders[f"layers.{k}.attn", 2] = {("attn", k): written.joined(k, z)}
    receivers: dict[Any, Any] = {OUTPUT: "output"}
    for k in range(layers):
        receivers[f"layers.{k}.attn"] = ("attn", k)
        receivers[f"layers.{k}.mlp"] = ("mlp", k)
        receivers[f"layers.{k}.attn.queries", 3] = ("queries", k)
    expected = []
    for sent in senders.values():
        streams = written.frozen(base, sent, through == "mlp")
        line = []
        for at in receivers.values():
            if at[0] == "queries":
                received: Any = streams["attn", at[1]], [3]
            else:
                received = streams[at]
            line.append(diff(written.run({at: received})["logits"]))
        expected.append(line)
    found = model.path_patching(CLEAN, CORRUPTED, [*senders], [*receivers], through=through, **RAW)
    assert found.dims == ("sender", "receiver")
    assert found.shape == (len(senders), len(receivers))
    near(found.values, expected)
    plain = diff(base["logits"])
    assert np.abs(np.asarray(expected) - plain).max() > 1e-3
    assert found.axes["sender"][3] == "layers.0.attn head 2"
    assert found.item(sender="layers.1.mlp", receiver="layers.1.attn") == pytest.approx(plain)


def test_receivers_together_each_read_what_is_sent_and_what_the_others_pass_on(llama):
    model, written, base, other = llama
    sent = {("attn", 0): other["attn", 0]}
    streams = written.frozen(base, sent)
    change = streams["output"] - base["last"]

    def by_hand() -> float:
        """Head 1's queries in layer 1, and the output."""
        kept = written.run({("queries", 1): (streams["attn", 1], [1])})
        end = written.run(
            {("queries", 1): (streams["attn", 1], [1]), "output": kept["last"] + change}
        )
        return diff(end["logits"])

    group = {"both": [("layers.1.attn.queries", 1), OUTPUT], "one": OUTPUT}
    found = model.path_patching(CLEAN, CORRUPTED, "layers.0.attn", group, **RAW)
    assert found.axes == {"receiver": ("both", "one")}
    near(found.values, [by_hand(), diff(written.run({"output": streams["output"]})["logits"])])


@pytest.mark.parametrize("through", [None, "mlp"])
def test_senders_together_equal_the_forward_by_hand(llama, through):
    """Each takes its other value at once; one that comes after a receiver does not matter to it."""
    model, written, base, other = llama
    z = mx.array(base["heads", 0])
    z[1:3] = other["heads", 0][1:3]
    groups = {
        "two heads, an mlp": {("attn", 0): written.joined(0, z), ("mlp", 1): other["mlp", 1]},
        "the start, attention": {
            "embed": other["embed"],
            **{("attn", k): other["attn", k] for k in range(len(written.model.layers))},
        },
    }
    senders = {
        "two heads, an mlp": [("layers.0.attn", [1, 2]), "layers.1.mlp"],
        "the start, attention": ["model.embed_tokens", "layers.*.self_attn"],
    }
    receivers = {OUTPUT: "output", "layers.1.attn": ("attn", 1), "layers.1.mlp": ("mlp", 1)}
    expected = []
    for sent in groups.values():
        streams = written.frozen(base, sent, through == "mlp")
        expected.append(
            [diff(written.run({at: streams[at]})["logits"]) for at in receivers.values()]
        )
    found = model.path_patching(CLEAN, CORRUPTED, senders, [*receivers], through=through, **RAW)
    assert found.axes == {"sender": tuple(senders), "receiver": tuple(receivers)}
    near(found.values, expected)
    assert np.abs(np.asarray(expected) - diff(base["logits"])).max() > 1e-3
    alone = model.path_patching(
        CLEAN,
        CORRUPTED,
        [spec for some in senders.values() for spec in some],
        through=through,
        **RAW,
    )
    moves = np.asarray(alone.values) - diff(base["logits"])
    assert abs(moves[:3].sum() - (expected[0][0] - diff(base["logits"]))) > 1e-4, "a norm follows"


def test_an_edge_is_the_cell_of_its_sender_and_its_receiver(tiny):
    senders = ["layers.0.mlp", ("layers.3.attn", 1), "layers.1.attn"]
    receivers = ["layers.2.attn.values", OUTPUT, "layers.4.mlp"]
    for given in ({}, {"positions": "all", "direction": "noise"}):
        table = tiny.path_patching(*TEXTS, senders, receivers, **given, **ANSWERS)
        edges = [(senders[0], receivers[0]), (senders[1], receivers[1]), (senders[1], receivers[2])]
        found = tiny.path_patching(*TEXTS, edges=edges, **given, **ANSWERS)
        assert found.dims == ("edge", *table.dims[1:-1])
        cells = np.asarray(table.values)
        near(found.values, np.stack([cells[0, ..., 0], cells[1, ..., 1], cells[1, ..., 2]]))
    assert found.axes["edge"][:2] == (
        "layers.0.mlp -> layers.2.attn.values",
        "layers.3.attn head 1 -> __model_output__",
    )
    one = found.sel(receiver="layers.2.attn.values")
    assert one.dims == ("position",) and np.abs(np.asarray(one.values) - 100).max() > 1
    figure = found.sel(position=[4, 5]).plot()
    assert figure.axes[0].get_yticklabels()[0].get_text().startswith("layers.0.mlp -> ")
    named = tiny.path_patching(
        *TEXTS,
        edges={
            "the heads": ("heads", OUTPUT),
            "both": (["layers.0.mlp", "layers.1.attn"], [tiny.layers[3].mlp, "layers.4.mlp"]),
        },
        **ANSWERS,
    )
    assert named.axes == {"edge": ("the heads", "both")}
    assert named.coords["receiver"][1][1] == "model.layers.3.mlp + layers.4.mlp"
    together = {"a": ["layers.0.mlp", "layers.1.attn"]}
    other = tiny.path_patching(*TEXTS, together, {"b": ["layers.3.mlp", "layers.4.mlp"]}, **ANSWERS)
    assert named.item(edge="both") == pytest.approx(other.item(sender="a", receiver="b"), abs=1e-3)
    attention = tiny.path_patching(*TEXTS, {"all": "attn"}, **ANSWERS)
    assert named.item(edge="the heads") == pytest.approx(attention.item(sender="all"), abs=1e-3)
    assert abs(float(attention)) > 10


# -- laws, on models of several kinds --------------------------------------------------------------


MODELS = {
    **THE_SAME,  # gemma2 has norms after attention and MLP
    "olmo2": lambda: made("olmo2"),  # norms after them alone
    "cohere": lambda: made("cohere"),  # attention and MLP side by side, on one norm
    "falcon_h1": lambda: made("falcon_h1"),  # and a state space beside attention
}


@pytest.fixture(scope="module", params=sorted_out(MODELS))
def model(request: Any) -> mg.InterpretableModel:
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def tiny() -> mg.InterpretableModel:
    return mg.tiny()


def parts_of(model: Any, layer: int) -> list[str]:
    """Attention and what is not attention nor a norm, in a layer."""
    block = model.layers[layer].path
    children = [
        path
        for path, _ in model.named_modules()
        if path.startswith(f"{block}.") and "." not in path.removeprefix(f"{block}.")
    ]
    return [path for path in children if "norm" not in path and "ln_" not in path]


@pytest.mark.thin(3)
def test_all_edges_out_of_a_part_together_are_the_part(model):
    layers = len(model.layers)
    attention = model.sites("layers.0.attn")[0]
    beside = type(model.layers[0].module).__module__.endswith(("cohere", "falcon_h1"))
    same = (
        [p for p in parts_of(model, 0) if p != attention and "mamba" not in p]
        if not beside
        else ([p for p in parts_of(model, 0) if "feed_forward" in p])
    )
    later = [*same, *(p for k in range(1, layers) for p in parts_of(model, k)), OUTPUT]
    found = model.path_patching(CLEAN, CORRUPTED, attention, {"all": later}, **RAW)
    whole = model.activation_patching(CLEAN, CORRUPTED, "attn", layers=[0], **RAW)
    plain = model.path_patching(CORRUPTED, CORRUPTED, attention, OUTPUT, **RAW)
    near(found.values, whole.values)
    assert abs(float(whole) - float(plain)) > 1e-5


def test_parts_in_lists_are_parts_too():
    """A layer that has two attentions, in a list: the first one's edges are all that it does."""
    model, receivers = made("longcat_flash"), [OUTPUT]
    parts = [*(f"self_attn.{k}" for k in (0, 1)), *(f"mlps.{k}" for k in (0, 1)), "mlp"]
    for k in range(len(model.layers)):
        receivers += [f"layers.{k}.{part}" for part in parts if (k, part) != (0, "self_attn.0")]
    found = model.path_patching(
        CLEAN, CORRUPTED, "layers.0.self_attn.0", {"all": receivers, "end": OUTPUT}, **RAW
    )
    whole = model.activation_patching(CLEAN, CORRUPTED, "self_attn.0", layers=[0], **RAW)
    near(found.item(receiver="all"), whole[0])
    assert abs(found.item(receiver="end") - whole[0]) > 1e-4


@pytest.mark.thin(3)
def test_all_that_writes_to_the_stream_together_is_the_other_run(model):
    writers = residual_writers(model, mx.array([CLEAN]))
    blocks = tuple(f"{block.path}." for block in model.layers)
    parts = [name for name in writers if name.startswith(blocks)]
    starts = [name for name in writers if name not in parts][:1]  # positions are those of both
    found = model.path_patching(
        CLEAN, CORRUPTED, {"all": starts + parts, "most": starts + parts[1:]}, OUTPUT, **RAW
    )
    near(found.item(sender="all"), found.attrs["clean"])
    gap = abs(found.item(sender="most") - found.attrs["clean"])
    assert gap > 1e-5 and abs(found.attrs["clean"] - found.attrs["corrupted"]) > 1e-4


def test_all_edges_out_of_a_head_together_are_the_head(tiny):
    later = ["layers.1.mlp", *(p for k in range(2, 6) for p in parts_of(tiny, k)), OUTPUT]
    found = tiny.path_patching(*TEXTS, ("layers.1.attn", "all"), {"all": later}, **ANSWERS)
    whole = tiny.activation_patching(*TEXTS, "heads", layers=[1], **ANSWERS)
    near(found.values[:, 0], whole.values[0])
    assert float(mx.abs(whole.values).max()) > 0.05


@pytest.mark.thin(3)
def test_a_direct_edge_to_the_output_at_a_position_changes_no_other(model):
    found = model.path_patching(
        CLEAN, CORRUPTED, ["layers.0.attn", "layers.1.attn"], positions="all", **RAW
    )
    with model.trace(mx.array([CORRUPTED])):
        plain = diff(model.output[0, -1].save())
    assert found.dims == ("sender", "position")
    near(found.values[:, :-1], np.full((2, len(CLEAN) - 1), plain), 2e-6)
    assert np.abs(np.asarray(found.values)[:, -1] - plain).max() > 1e-5


@pytest.mark.thin(3)
def test_where_both_texts_are_one_every_effect_is_none(model):
    found = model.path_patching(
        CLEAN,
        CLEAN,
        ["layers.0.attn", ("layers.0.attn", 1), "layers.0.mlp"],
        ["layers.1.attn", ("layers.1.attn.queries", 0), OUTPUT],
        **RAW,
    )
    assert len(set(np.asarray(found.values).ravel().tolist())) == 1
    changed = model.path_patching(CLEAN, CORRUPTED, "layers.0.attn", **RAW)
    unpatched = model.path_patching(CORRUPTED, CORRUPTED, "layers.0.attn", **RAW)
    assert float(changed) != float(unpatched)


@pytest.mark.thin(3)
def test_no_path_no_effect(model):
    senders = ["layers.0.attn", "layers.1.attn"]
    found = model.path_patching(CLEAN, CORRUPTED, senders, ["layers.1.attn", OUTPUT], **RAW)
    with model.trace(mx.array([CORRUPTED])):
        plain = diff(model.output[0, -1].save())
    values = np.asarray(found.values)
    assert values[1, 0] == pytest.approx(plain, abs=1e-6)
    assert abs(values[0, 0] - plain) > 1e-6
    with pytest.raises(InputError, match="no path leads"):
        model.path_patching(CLEAN, CORRUPTED, "layers.1.attn", "layers.0.attn", **RAW)


def first(value: Any) -> Any:
    return value[0] if isinstance(value, (tuple, list)) else value


@pytest.mark.parametrize("through", [None, "mlp"])
@pytest.mark.thin(4)
def test_an_edge_into_attention_equals_two_traces_by_hand(model, through):
    """Held by hand: all that the parts between gave; then the receiver's own value in place."""
    sender, receiver = model.sites("layers.0.attn")[0], model.sites("layers.1.attn")[0]
    others = [p for p in parts_of(model, 0) if p != sender]
    if through is not None:
        others = [p for p in others if p != model.sites("layers.0.mlp")[0]]
    with model.trace(mx.array([CLEAN])):
        sent = first(model[sender].output).save()
    with model.trace(mx.array([CORRUPTED])):
        kept = [first(model[p].output).save() for p in others]
    with model.trace(mx.array([CORRUPTED])):
        first(model[sender].output)[...] = sent
        for path, value in zip(others, kept, strict=True):
            first(model[path].output)[...] = value
        queries = model["layers.1.attn.queries"].output.save()
        received = first(model[receiver].output).save()
    expected = []
    with model.trace(mx.array([CORRUPTED])):
        first(model[receiver].output)[...] = received
        expected.append(model.output[0, -1].save())
    with model.trace(mx.array([CORRUPTED])):
        model["layers.1.attn.queries"].output[:, 1] = queries[:, 1]
        expected.append(model.output[0, -1].save())
    found = model.path_patching(
        CLEAN, CORRUPTED, sender, [receiver, (f"{receiver}.queries", 1)], through=through, **RAW
    )
    near(found.values, [diff(logits) for logits in expected])


# -- what it gives ---------------------------------------------------------------------------------


def test_heads_of_all_layers_make_a_map(tiny):
    found = tiny.path_patching(*TEXTS, "heads", **ANSWERS)
    assert found.dims == ("layer", "head") and found.shape == (6, 8) and found.unit == "%"
    assert found.attrs["direction"] == "denoise" and found.attrs["through"] == ""
    one = tiny.path_patching(*TEXTS, ("layers.3.attn", 1), **ANSWERS)
    assert float(one) == pytest.approx(found.item(layer=3, head=1), abs=1e-3)
    layers = tiny.path_patching(*TEXTS, "mlp", ["layers.5.mlp", OUTPUT], **ANSWERS)
    assert layers.dims == ("layer", "receiver")
    every = tiny.path_patching(*TEXTS, "layers.2.mlp", "queries", **ANSWERS)
    assert every.shape == (48,) and every.axes["receiver"][-1].endswith("queries head 7")


def test_in_both_directions_the_ends_are_the_two_runs(tiny):
    all_parts = [p for k in range(6) for p in parts_of(tiny, k)]
    sender = "model.embed_tokens"
    for direction, expected in (("denoise", 100.0), ("noise", 0.0)):
        found = tiny.path_patching(
            *TEXTS,
            sender,
            {"all": [*all_parts, OUTPUT], "end": OUTPUT},
            direction=direction,
            **ANSWERS,
        )
        assert found.item(receiver="all") == pytest.approx(expected, abs=0.1)
        assert abs(found.item(receiver="end") - (100 - expected)) < 5


def test_texts_of_other_lengths_are_aligned(tiny):
    short, long = "The capital of France is", "I know that the capital of England is"
    with pytest.raises(LengthsError):
        tiny.path_patching(short, long, "layers.1.attn", **ANSWERS)
    found = tiny.path_patching(short, long, "attn", align="end", positions=[-1], **ANSWERS)
    assert np.isfinite(np.asarray(found.values)).all()
    # at the last position the edge to the output is a sum that can be written down
    with tiny.trace(short):
        sent = tiny.layers[3].attn.output[0, -1].save()
    with tiny.trace(long):
        own = tiny.layers[3].attn.output[0, -1].save()
        plain = tiny.output[0, -1].save()
    with tiny.trace(long):
        tiny.layers[5].output[0, -1] += sent - own
        patched = tiny.output[0, -1].save()
    paris, london = (tiny.single_token(word) for word in ANSWERS["targets"])
    change = (patched - plain)[paris] - (patched - plain)[london]
    ends = found.attrs["clean"] - found.attrs["corrupted"]
    assert found.item(layer=3) == pytest.approx(100 * change.item() / ends, abs=0.01)
    assert abs(change.item()) > 0.05
    with pytest.raises(InputError, match="each pair"):
        tiny.path_patching(short, long, "layers.1.attn.pattern", align="end", **ANSWERS)


def test_edits_that_stay_are_in_every_run(tiny):
    edit = mg.edit("layers.2.mlp", lambda h: 0.5 * h)
    found = tiny.edit(edit).path_patching(*TEXTS, ["layers.1.attn"], ["layers.4.attn"], **ANSWERS)
    other = tiny.path_patching(*TEXTS, ["layers.1.attn"], ["layers.4.attn"], **ANSWERS)
    assert float(found) != float(other)
    shared = made("cohere").edit(mg.edit("layers.1.input_layernorm", lambda h: 2 * h))
    with pytest.raises(InputError, match="is edited"):
        shared.path_patching(CLEAN, CORRUPTED, "layers.0.attn", "layers.1.attn", **RAW)


def test_an_interrupt_keeps_what_it_has(tiny, monkeypatch):
    from mlxgraph.sweep.schedule import Schedule

    steps = Schedule.steps

    def interrupted(self: Any) -> Any:
        for number, some in enumerate(steps(self)):
            yield some
            if number == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(Schedule, "steps", interrupted)
    with pytest.raises(SweepStopped) as caught:
        tiny.path_patching(*TEXTS, "heads", batch_size=8, **ANSWERS)
    values = np.asarray(caught.value.result.values)
    assert values.shape == (6, 8)
    assert 0 < np.isnan(values).sum() < values.size
    monkeypatch.undo()
    whole = np.asarray(tiny.path_patching(*TEXTS, "heads", **ANSWERS).values)
    done = ~np.isnan(values)
    near(values[done], whole[done])


@pytest.mark.parametrize("name", ["gemma3n", "rwkv7"])
def test_a_layer_that_is_no_sum_says_so(name):
    model = made(name)
    path = parts_of(model, 0)[0]
    with pytest.raises((InputError, UnknownSiteError)):
        model.path_patching(CLEAN, CORRUPTED, path, **RAW)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"senders": "layers.9.attn"}, UnknownSiteError, "layers"),
        ({"senders": []}, InputError, "none"),
        ({"senders": 3}, InputError, "names of parts"),
        ({"senders": {}}, InputError, "none"),
        (
            {"senders": {"a": ["layers.1.attn", "layers.1.attn.output"], "b": []}},
            InputError,
            "none",
        ),
        (
            {"senders": {"a": ["layers.1.attn", ("layers.*.attn", 1)], "b": OUTPUT}},
            InputError,
            "sends",
        ),
        ({"edges": []}, InputError, "none"),
        ({"edges": ("layers.1.attn", "layers.3.mlp")}, InputError, "list of pairs"),
        ({"edges": "heads"}, InputError, "list of pairs"),
        ({"edges": [("layers.1.attn", OUTPUT)], "senders": "attn"}, InputError, "alone"),
        ({"edges": [("layers.3.attn", "layers.1.mlp")]}, InputError, "no path leads"),
        ({"edges": [("layers.1.attn", {"a": "layers.3.mlp"})]}, InputError, "an end of an edge"),
        ({"edges": [([], OUTPUT)]}, InputError, "an end of an edge"),
        ({"edges": [(OUTPUT, "layers.1.mlp")]}, InputError, "sends nothing"),
        (
            {"edges": [(["layers.1.attn.heads", ("layers.1.attn", 2)], OUTPUT)]},
            InputError,
            "sender '.*' names",
        ),
        ({"senders": OUTPUT}, InputError, "sends nothing"),
        ({"senders": ("layers.1.attn", 9)}, BoundsError, "9"),
        ({"senders": ("layers.1.mlp", 1)}, NeverCalledError, "no attention"),
        ({"senders": "model.norm"}, InputError, "before the layers"),
        ({"senders": "layers.1.attn", "receivers": "layers.1"}, InputError, "no part"),
        ({"senders": "layers.1.attn", "receivers": "model.norm"}, InputError, "a receiver"),
        (
            {"senders": "layers.1.input_layernorm", "receivers": "layers.1.attn"},
            InputError,
            "reads the stream by",
        ),
        ({"senders": "layers.1.attn", "receivers": (OUTPUT, 1)}, InputError, "heads"),
        ({"senders": "layers.1.attn", "receivers": {}}, InputError, "none"),
        (
            {
                "senders": "layers.1.attn",
                "receivers": {"a": ["layers.2.mlp", "layers.2.mlp.gate_proj"]},
            },
            InputError,
            "two receivers",
        ),
        (
            {
                "senders": "layers.1.attn",
                "receivers": {"a": ["layers.2.mlp", OUTPUT]},
                "through": "mlp",
            },
            InputError,
            "twice",
        ),
        (
            {"senders": "model.embed_tokens", "receivers": "model.embed_tokens"},
            InputError,
            "no path",
        ),
        (
            {
                "senders": "layers.1.attn",
                "receivers": {"a": ["layers.2.input_layernorm", "layers.2.attn"]},
            },
            InputError,
            "count twice",
        ),
        ({"through": "attn"}, UnknownNameError, "mlp"),
        ({"direction": "up"}, InputError, "direction"),
        ({"positions": [11]}, PositionError, "11"),
        ({"metric": "logit_diff", "targets": (" Paris", " nowhere at all")}, TokenError, "nowhere"),
        ({"metric": "nearness"}, UnknownNameError, "nearness"),
    ],
)
def test_what_is_wrong_is_said_on_the_users_line(tiny, arguments, error, says):
    with pytest.raises(error, match=says) as caught:
        tiny.path_patching(*TEXTS, **arguments)
    assert caught.traceback[-1].path.name == "test_path_patching.py"


def test_one_text_twice_has_nothing_to_recover(tiny):
    with pytest.raises(BaselineError):
        tiny.path_patching(TEXTS[0], TEXTS[0], "layers.1.attn", **ANSWERS)
