"""Edits that change nothing, edits that change what they must, and nothing else."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxgraph as mg
from tests import models
from tests.laws.interpreter import sites_of

LENGTH = 6
TOKENS = mx.array([[1, 7, 3, 9, 4, 2], [5, 11, 0, 8, 6, 13]])
OTHER = mx.array([[2, 7, 31, 9, 44, 20], [9, 1, 10, 18, 6, 3]])


def _cases():
    found = {}
    for name, tied in (("tied", True), ("untied", False)):
        model = mg.InterpretableModel(models.make_llama(tied))
        sites = [
            site
            for site, value in sites_of(model.module, (TOKENS,)).items()
            if value.dtype == mx.float32 and value.ndim == 3
        ]
        found[name] = (model, sites, model.module(TOKENS))
    return found


CASES = _cases()
NAMES = sorted(CASES)


class Place:
    """One site of a model, to be read and written in a block."""

    def __init__(self, model, site):
        self.model = model
        self.path, self.port, self.call = site

    def _owner(self):
        whole = not self.path and self.port == "output"
        return self.model if whole else self.model[self.path].calls[self.call]

    @property
    def value(self):
        return getattr(self._owner(), self.port)

    @value.setter
    def value(self, new):
        setattr(self._owner(), self.port, new)


def logits(model, tokens, edit, compile=False):
    with model.trace(tokens, compile=compile):
        edit()
        out = model.output.save()
    return out


def some_site(data):
    name = data.draw(st.sampled_from(NAMES))
    model, sites, plain = CASES[name]
    return model, Place(model, data.draw(st.sampled_from(sites))), plain


NOTHING = {
    "plus nought": lambda h: h + 0.0,
    "times one": lambda h: h * 1.0,
    "read and written back": lambda h: h,
    "a copy": lambda h: mx.array(h),
    "there and back": lambda h: h.swapaxes(0, 1).reshape(LENGTH, 2, -1).swapaxes(0, 1),
}


@given(data=st.data())
def test_an_edit_that_is_no_edit_changes_nothing(data):
    model, where, plain = some_site(data)
    change = NOTHING[data.draw(st.sampled_from(sorted(NOTHING)))]
    out = logits(model, TOKENS, lambda: setattr(where, "value", change(where.value)))
    assert models.same(out, plain)


@given(data=st.data())
def test_the_same_edit_with_a_real_value_changes_the_output(data):
    model, where, plain = some_site(data)
    scale = data.draw(st.sampled_from([-1.0, 0.25, 3.0]))

    def edit():
        h = where.value
        h *= scale
        h[..., 0] += 2.0

    assert float(mx.abs(logits(model, TOKENS, edit) - plain).max()) > 1e-4


@given(data=st.data())
def test_writing_back_a_part_that_was_read_changes_nothing(data):
    model, where, plain = some_site(data)
    p = data.draw(st.integers(0, LENGTH - 1))

    def edit():
        h = where.value
        h[:, p] = h[:, p]
        h[..., ::2] = h[..., ::2]
        h[0] += 0.0

    assert models.same(logits(model, TOKENS, edit), plain)


@given(data=st.data())
def test_causality_an_edit_at_a_position_leaves_earlier_logits_alone(data):
    model, where, plain = some_site(data)
    p = data.draw(st.integers(1, LENGTH - 1))  # the first query attends to itself, whatever it is
    amount = data.draw(st.sampled_from([-3.0, 0.7, 5.0]))

    def edit():
        h = where.value
        h[:, p, 1:5] += amount
        h[:, p] *= -0.5

    out = logits(model, TOKENS, edit)
    assert models.same(out[:, :p], plain[:, :p])
    assert float(mx.abs(out[:, p:] - plain[:, p:]).max()) > 1e-5


@given(data=st.data())
def test_an_edit_in_one_row_leaves_the_other_rows_alone(data):
    model, where, plain = some_site(data)
    row = data.draw(st.integers(0, 1))

    def edit():
        where.value[row] *= -2.0

    out = logits(model, TOKENS, edit)
    assert models.same(out[1 - row], plain[1 - row])
    assert float(mx.abs(out[row] - plain[row]).max()) > 1e-5


@given(data=st.data())
def test_patching_every_position_with_the_clean_run_gives_the_clean_run(data):
    name = data.draw(st.sampled_from(NAMES))
    model, _, clean_logits = CASES[name]
    layer = data.draw(st.integers(0, models.LAYERS - 1))
    with model.trace(TOKENS, compile=False):
        clean = model.layers[layer].output.save()

    def edit():
        for p in data.draw(st.permutations(range(LENGTH))):
            model.layers[layer].output[:, p] = clean[:, p]

    assert models.same(logits(model, OTHER, edit), clean_logits)
    corrupted = logits(model, OTHER, lambda: None)
    assert float(mx.abs(corrupted - clean_logits).max()) > 1e-2


@given(data=st.data())
def test_edits_at_different_sites_commute(data):
    model, sites, _ = CASES[data.draw(st.sampled_from(NAMES))]
    first, second = data.draw(st.lists(st.sampled_from(sites), min_size=2, max_size=2, unique=True))
    results = []
    for order in ([first, second], [second, first]):

        def edit(order=order):
            for site in order:
                where = Place(model, site)
                h = where.value
                h[:, 1] *= 1.0 + sites.index(site) / 10

        results.append(logits(model, TOKENS, edit))
    assert models.same(*results)


@given(order=st.permutations(range(7)))
@settings(max_examples=15)
def test_sites_may_be_read_in_any_order(order):
    model, sites, _ = CASES["tied"]
    chosen = sites[:: len(sites) // 7][:7]
    saved = {}
    with model.trace(TOKENS, compile=False):
        for k in order:
            where = Place(model, chosen[k])
            saved[k] = where.value.save()
    plain = sites_of(model.module, (TOKENS,))
    assert all(models.same(saved[k], plain[chosen[k]]) for k in range(7))


@pytest.mark.parametrize("name", NAMES)
def test_every_site_reads_as_the_models_own_value(name):
    model, sites, _ = CASES[name]
    plain = sites_of(model.module, (TOKENS,))
    with model.trace(TOKENS, compile=False):
        saved = [Place(model, site).value.save() for site in sites]
    assert len(sites) > 40
    assert all(models.same(ours, plain[site]) for ours, site in zip(saved, sites, strict=True))


EDITS = {
    "nothing": lambda m: None,
    "steer": lambda m: m.layers[1].output[:, -1].__iadd__(2.0),
    "scale": lambda m: setattr(m.layers[0].mlp, "output", 0.5 * m.layers[0].mlp.output),
    "head": lambda m: (
        m.layers[1].attn.q_proj.output.reshape(2, LENGTH, 4, 8)[:, :, 1].__setitem__(..., 0.0)
    ),
    "input": lambda m: m.layers[2].input.__imul__(1.5),
    "logits": lambda m: setattr(m, "output", mx.softmax(m.output, axis=-1)),
    "bypass": lambda m: setattr(m.layers[2], "output", m.layers[0](m.layers[1].output)),
}


@pytest.mark.parametrize("name", EDITS)
def test_compiled_equals_eager(tied, name):
    eager = logits(tied, TOKENS, lambda: EDITS[name](tied), compile=False)
    compiled = logits(tied, TOKENS, lambda: EDITS[name](tied), compile=True)
    again = logits(tied, TOKENS, lambda: EDITS[name](tied), compile=True)
    plain = tied.module(TOKENS)
    assert models.same(eager, compiled, 1e-4)
    assert models.same(compiled, again)
    if name != "nothing":
        assert float(mx.abs(eager - plain).max()) > 1e-3
    else:
        assert models.same(eager, plain)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_identities_are_exact_in_half_precision(dtype):
    module = models.make_llama(True)
    module.set_dtype(dtype)
    model = mg.InterpretableModel(module)
    plain = module(TOKENS)

    def edit():
        for layer in model.layers:
            layer.output += 0.0
            layer.mlp.output = layer.mlp.output
            layer.attn.output[:, 2] = layer.attn.output[:, 2]

    out = logits(model, TOKENS, edit)
    assert out.dtype == dtype and models.same(out, plain)

    def matters():
        model.layers[1].output *= 1.25

    assert not models.same(logits(model, TOKENS, matters), plain)


def test_calling_the_models_own_head_on_its_final_state_gives_its_logits(llama):
    head = "lm_head" in dict(llama.named_modules())
    table = llama.parameters()["model.embed_tokens.weight"]
    with llama.trace(TOKENS, compile=False):
        state = llama.layers[-1].output
        normed = llama["model.norm"](state)
        lens = (llama["lm_head"](normed) if head else normed @ table.T).save()
        out = llama.output.save()
    assert models.same(lens, out, 0.0 if head else 1e-6)
