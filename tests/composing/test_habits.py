"""Habits from elsewhere: stop, skip, cache, apply, log, barrier."""

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import (
    NeverCalledError,
    NotSavedError,
    OrderError,
    OutsideTraceError,
    ShapeError,
    UnknownSiteError,
)
from tests.composing.helpers import FRANCE, GERMANY, ROME, apart, exact, plain

# -- stop -------------------------------------------------------------------------------------


def test_stop_leaves_the_block_and_what_was_recorded_runs(tied, tokens):
    reached = []
    with tied.trace(tokens) as t:
        h = tied.layers[0].output.save()
        tied.layers[0].output = 0
        t.stop()
        reached.append(1)
        tied.layers[1].output.save("never")
    assert exact(h, tied.run(mg.read("layers.0", "h"), tokens)["h"])
    assert not reached and list(t.saved_values) == ["model.layers.0.output"]
    assert exact(t.output, tied.run(mg.edit("layers.0", iv.zero_out), tokens).output)


def test_nothing_runs_behind_what_is_needed(counted, x):
    for _ in range(2):  # the first takes the census
        counted.module.reset()
        with counted.trace(x, compile=False) as t:
            h = counted.layers[1].output.save()
            t.stop()
        mx.eval(h)
    assert counted.module.ticks() == [1, 1, 0, 0]
    counted.module.reset()
    with counted.trace(x, compile=False):
        h = counted.layers[3].output.save()
    mx.eval(h)
    assert counted.module.ticks() == [1, 1, 1, 1]


def test_stop_within_a_function_and_a_loop(tied, tokens):
    def until(t, k):
        if k == 1:
            t.stop()

    kept = []
    with tied.trace(tokens) as t:
        for k, layer in enumerate(tied.layers):
            kept.append(layer.output.save())
            until(t, k)
    assert len(kept) == 2 and kept[1].shape == (2, 6, 32)


def test_stop_outside_of_the_block_raises(tied, tokens):
    with tied.trace(tokens) as t:
        pass
    with pytest.raises(OutsideTraceError):
        t.stop()


def test_an_exception_is_not_taken_for_a_stop(tied, tokens):
    with pytest.raises(KeyError):
        with tied.trace(tokens) as t:
            try:
                t.stop()
            finally:
                raise KeyError("mine")


# -- skip -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_zeroing_what_a_block_writes_is_skipping_it(llama, tokens, layer):
    """Law 17, exactly."""
    with llama.trace(tokens, compile=False):
        block = llama.layers[layer]
        block.skip(block.input)
        skipped = llama.output.save()
    zeroed = mg.edit(f"layers.{layer}.attn", iv.zero_out) >> mg.edit(
        f"layers.{layer}.mlp", iv.zero_out
    )
    assert exact(skipped, llama.run(zeroed, tokens, compile=False).output)
    assert apart(skipped, plain(llama, tokens)) > 1e-3


def test_a_skipped_module_is_not_run(counted, x):
    for _ in range(2):
        counted.module.reset()
        with counted.trace(x, compile=False):
            counted.layers[1].skip(counted.layers[1].input * 2)
            out = counted.output.save()
        mx.eval(out)
    assert counted.module.ticks() == [1, 0, 1, 1]


def test_skipping_takes_any_value_that_fits(tied, tokens):
    with tied.trace(tokens):
        early = tied.layers[0].output
        tied.layers[1].skip(early * 2)
        out = tied.output.save()
    h = tied.run(mg.read("layers.0", "h"), tokens)["h"]
    assert exact(out, tied.run(mg.edit("layers.1", iv.replace_with(h * 2)), tokens).output)
    with tied.trace(tokens):
        tied.layers[1].mlp.skip(mx.zeros((2, 6, 32)))
        out = tied.output.save()
    assert exact(out, tied.run(mg.edit("layers.1.mlp", iv.zero_out), tokens).output)


def test_compiled_and_eager_skips_agree(llama, tokens):
    outs = []
    for mode in (False, True):
        with llama.trace(tokens, compile=mode):
            llama.layers[1].skip(llama.layers[1].input)
            llama.layers[2].attn.output *= 0.5
            outs.append(llama.output.save())
    assert apart(*outs) < 1e-4 and apart(outs[0], plain(llama, tokens)) > 1e-3


def test_a_skip_is_part_of_the_graph(tied, tokens):
    with tied.trace(tokens) as t:
        tied.layers[1].skip(tied.layers[1].input)
        want = tied.output.save("out")
    other = tokens + 1
    with tied.trace(other):
        tied.layers[1].skip(tied.layers[1].input)
        there = tied.output.save()
    assert exact(tied.run(t.graph, tokens)["out"], want)
    assert exact(tied.run(t.graph, other)["out"], there)
    edited = tied.edit(t.graph.replace(saves=()))
    assert apart(edited(other), there) < 1e-5
    before = mg.edit("layers.0", iv.scale(0.5)) >> t.graph
    with tied.trace(tokens):
        tied.layers[0].output *= 0.5
        tied.layers[1].skip(tied.layers[1].input)
        both = tied.output.save()
    assert exact(tied.run(before, tokens)["out"], both)
    with tied.trace(tokens, graph=t.graph) as again:
        pass
    assert exact(again.saved_values["out"], want)


def test_what_a_skipped_module_gives_can_be_read_and_edited(tied, tokens):
    with tied.trace(tokens):
        h = tied.layers[1].input
        tied.layers[1].skip(h)
        given, seen = h.save(), tied.layers[1].output.save()
        tied.layers[1].output += 1.0
        out = tied.output.save()
    assert exact(given, seen)
    want = tied.run(mg.edit("layers.1", iv.replace_with(given + 1.0)), tokens).output
    assert exact(out, want)


def test_inside_a_skipped_module_there_is_nothing(tied, tokens):
    for touch in (
        lambda: tied.layers[1].mlp.output.save(),
        lambda: setattr(tied.layers[1].attn, "output", 0),
    ):
        with pytest.raises(NeverCalledError, match="skipped"):
            with tied.trace(tokens):
                tied.layers[1].skip(tied.layers[1].input)
                touch()


def test_a_skip_needs_a_value_of_the_outputs_shape_that_is_known_by_then(tied, tokens):
    for wrong in (mx.zeros((2, 6, 3)), 0.0, None):
        with pytest.raises(ShapeError, match="layers.1"):
            with tied.trace(tokens):
                tied.layers[1].skip(wrong)
    with pytest.raises(OrderError, match="layers.1"):
        with tied.trace(tokens):
            tied.layers[1].skip(tied.layers[2].output)
    with pytest.raises(OrderError, match="layers.1"):
        with tied.trace(tokens):
            tied.layers[1].skip(tied.layers[1].mlp.output)


# -- cache ------------------------------------------------------------------------------------


def test_a_cache_holds_what_its_patterns_match(tied, tokens):
    with tied.trace(tokens) as t:
        cache = t.cache("layers.*.mlp", "layers.1", "model.norm")
    assert list(cache) == [*(f"model.layers.{k}.mlp" for k in range(3)), "model.layers.1",
                           "model.norm"]  # fmt: skip
    for path, value in cache.items():
        assert isinstance(value, mx.array)
        assert exact(value, tied.run(mg.read(path, "h"), tokens)["h"])


def test_a_cache_without_patterns_holds_every_module_that_is_called(tied, tokens):
    with tied.trace(tokens) as t:
        tied.layers[0].output *= 2
        cache = t.cache()
    called = [n for n, _ in tied.named_modules() if n in cache]
    assert "model.layers.2.mlp.down_proj" in called and "model.layers.0.self_attn.rope" in called
    doubled = tied.run(mg.edit("layers.0", iv.scale(2.0)) >> mg.read("layers.2", "h"), tokens)
    assert exact(cache["model.layers.2"], doubled["h"])


def test_a_cache_sees_the_writes_above_it(tied, tokens):
    with tied.trace(tokens) as t:
        before = t.cache("layers.0")
        tied.layers[0].output = 0
        after = t.cache("layers.0")
    assert float(mx.abs(before["model.layers.0"]).max()) > 0.1
    assert float(mx.abs(after["model.layers.0"]).max()) == 0


def test_a_cache_of_what_there_is_not_raises(tied, tokens):
    with pytest.raises(UnknownSiteError):
        with tied.trace(tokens) as t:
            t.cache("layers.*.moe")
    with pytest.raises(OutsideTraceError):
        t.cache()


# -- apply, log, barrier ------------------------------------------------------------------------


def test_apply_runs_any_function_as_it_is(tied, tokens):
    def entropy(logits, base):
        p = np.exp(np.array(logits) - np.array(logits).max(-1, keepdims=True))
        p = p / p.sum(-1, keepdims=True)
        return mx.array((-(p * np.log(p)).sum(-1) / np.log(base)).astype(np.float32))

    with tied.trace(tokens) as t:
        got = t.apply(entropy, tied.output, 2.0).save()
        same = mg.apply(entropy, tied.output, base=2.0).save()
    assert exact(got, entropy(plain(tied, tokens), 2.0)) and exact(got, same)
    assert t.apply(max, 1, 2) == 2


def test_an_applied_function_can_feed_a_write(tied, tokens):
    def sorted_rows(h):
        return mx.array(np.sort(np.array(h), axis=-1))

    for x in (tokens, tokens + 1):
        with tied.trace(x):
            h = tied.layers[1].output.save()
            tied.layers[1].output = mg.apply(sorted_rows, h)
            out = tied.output.save()
        want = tied.run(mg.edit("layers.1", iv.replace_with(mx.sort(h, axis=-1))), x).output
        assert apart(out, want) < 1e-5


def test_log_writes_values_when_the_block_has_run(tied, tokens, capsys):
    with tied.trace(tokens) as t:
        h = tied.layers[0].output
        t.log("largest", h.max(), 3, h.shape)
        t.log(h[0, 0, 0])
        assert capsys.readouterr().out == ""
        kept = h.max().save("kept")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("largest ") and first.endswith(" 3 (2, 6, 32)")
    assert f"{float(kept):.3f}" in first
    assert second and list(t.saved_values) == ["kept"]


def test_log_after_the_block_or_a_block_that_raises_writes_nothing(tied, tokens, capsys):
    with pytest.raises(ZeroDivisionError):
        with tied.trace(tokens) as t:
            t.log(tied.layers[0].output.max())
            raise ZeroDivisionError
    with pytest.raises(OutsideTraceError):
        t.log(1)
    assert capsys.readouterr().out == ""


def test_a_barrier_is_nothing_to_wait_for(tied, tokens):
    with tied.trace(tokens) as t:
        barrier = t.barrier(2)
        late = tied.layers[2].output.save()
        barrier()
        early = tied.layers[0].output.save()
    want = tied.run(mg.read("layers.*", "h"), tokens).saves
    assert exact(early, want["h.model.layers.0"]) and exact(late, want["h.model.layers.2"])


# -- recordings agree ---------------------------------------------------------------------------


def block(model, x, v, alpha):
    """One program: a number, an array, a view, a save and a module called by hand."""
    with model.trace(x) as t:
        h = model.layers[1].output
        h[:, -1] = alpha * h[:, -1] + v
        model.layers[2].mlp.output = model.layers[2].mlp.output * 0.5
        model.model.norm(h).save("lens")
        model.output[:, -1].save("logits")
    return t.graph


def test_the_same_block_recorded_twice_is_the_same_graph(tied, tokens):
    v = mx.ones(32)
    one, other = block(tied, tokens, v, 2.0), block(tied, tokens, mx.ones(32) * 3, 2.0)
    assert one == other and hash(one) == hash(other)
    assert one.same_arrays(other) is False
    assert one != block(tied, tokens, v, 3.0)
    assert one == block(tied, tokens + 1, v, 2.0)
    assert str(one) == str(block(tied, tokens, v, 2.0))


def test_the_same_block_on_another_length_is_the_same_graph(tied, tokens):
    assert block(tied, tokens, mx.ones(32), 2.0) == block(tied, tokens[:, :3], mx.ones(32), 2.0)


def test_the_same_block_on_another_model_is_the_same_graph(tied, fresh, tokens):
    v = mx.ones(32)
    one, other = block(tied, tokens, v, 2.0), block(fresh, tokens, v, 2.0)
    assert one == other
    for model in (tied, fresh):
        a, b = model.run(one, tokens), model.run(other, tokens)
        assert exact(a["logits"], b["logits"]) and exact(a["lens"], b["lens"])


def test_a_block_a_pass_and_a_pattern_agree(tiny):
    with tiny.trace(FRANCE):
        tiny.layers[2].output[:, -1] *= 0.5
        want = tiny.output.save()
    passed = tiny.pass_(halved)
    assert apart(passed(FRANCE), want) < 1e-4
    assert exact(tiny.run(mg.edit("layers.2", iv.scale(0.5), positions=-1), FRANCE).output, want)
    with tiny.trace(FRANCE, {"layers.2": last_halved}):
        out = tiny.output.save()
    assert exact(out, want)
    with tiny.trace([FRANCE, ROME, GERMANY]):
        tiny.layers[2].output[:, -1] *= 0.5
        rows = tiny.output.save()
    assert apart(rows[0, -6:], want[0]) < 1e-4


def halved(m):
    m.layers[2].output[:, -1] *= 0.5
    return m.output


def last_halved(h):
    h[:, -1] = h[:, -1] * 0.5
    return h


def test_a_value_of_a_finished_block_is_an_array_for_the_next(tied, tokens):
    with tied.trace(tokens):
        h = tied.layers[1].output.save()
        lost = tied.layers[1].output
    with tied.trace(tokens + 1):
        tied.layers[1].output = h
        out = tied.output.save()
    assert exact(out, plain(tied, tokens))
    with pytest.raises(NotSavedError):
        with tied.trace(tokens):
            tied.layers[1].output = lost
