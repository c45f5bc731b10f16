"""Keys in caches that slide, turn, are quantised or were there before, and in modules."""

from __future__ import annotations

import traceback
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_map
from mlx_lm.models import llama

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import PartOfTextError
from tests import models
from tests.architectures import configs
from tests.generation.keys import (
    CHUNKED,
    COUNT,
    LAYER,
    LENGTH,
    PROMPT,
    a_key_of_scores,
    a_key_of_the_pattern,
    a_position_of_keys,
    all_values,
    attn,
    generated,
    in_a_view,
    nothing,
    of_both,
    rows_and_keys,
    traced,
)
from tests.generation.prefixes import close, reference

# -- caches ---------------------------------------------------------------------------------------

SLIDING = 0  # a layer that sees six tokens
SLIDERS = configs.installed(["gemma3_text", "gpt_oss"])


def sliding_key(m: Any, p: int, n: int) -> None:
    m.layers[SLIDING].self_attn.pattern[..., 1] = 0.0
    m.layers[SLIDING].self_attn.values[:, :, 2] *= 2.0


def sliding_head(m: Any, p: int, n: int) -> None:
    m.layers[SLIDING].self_attn.pattern[:, 1] *= 0.25
    m.layers[SLIDING].self_attn.pattern[:, 2, 1:] *= 0.5
    m.layers[SLIDING].self_attn.values[:, 0] *= 2.0


@pytest.mark.parametrize("name", SLIDERS)
@pytest.mark.parametrize("options", CHUNKED, ids=str)
@pytest.mark.thin(3)
def test_a_sliding_window_counts_from_the_start_until_it_slides(name, options):
    m = mg.InterpretableModel(configs.build(name))
    short, window = PROMPT[:3], 6
    count = window - len(short)  # a last forward, of which nobody asks what follows, is run too
    tokens, wanted = reference(m, short, count, sliding_key)
    found, logits = generated(m, sliding_key, short, count, **options)
    assert found == tokens
    assert all(close(a, b[-1]) for a, b in zip(logits, wanted, strict=True))
    plain = reference(m, short, count, nothing)[1]
    assert not close(plain[-1], wanted[-1])
    with pytest.raises(PartOfTextError, match="the cache has dropped") as raised:
        with m.generate(short, max_tokens=count + 3, **options) as t:
            sliding_key(m, 3, 9)
            h = m.layers[1].output.save()
    assert traceback.extract_tb(raised.value.__traceback__)[-1].filename == __file__
    assert t.tokens == tokens[: len(t.tokens)] and len(t.tokens) >= count - 1
    assert len(h) == len(t.tokens)


@pytest.mark.parametrize("name", SLIDERS)
def test_an_edit_of_every_key_alike_needs_no_positions(name):
    m = mg.InterpretableModel(configs.build(name))
    tokens, wanted = reference(m, PROMPT, 8, sliding_head)
    found, logits = generated(m, sliding_head, PROMPT, 8)
    assert found == tokens
    assert all(close(a, b[-1]) for a, b in zip(logits, wanted, strict=True))
    assert not close(reference(m, PROMPT, 8, nothing)[1][-1], wanted[-1])


def turning(m: Any) -> list[Any]:
    from mlx_lm.models.cache import RotatingKVCache

    return [RotatingKVCache(max_size=12, keep=2) for _ in m.module.layers]


@pytest.mark.parametrize("edit", [a_key_of_the_pattern, a_position_of_keys, all_values])
@pytest.mark.thin(3)
def test_a_cache_that_turns_is_refused_when_it_does(one, edit):
    with pytest.raises(PartOfTextError, match="the cache has dropped"):
        with one.generate(PROMPT, max_tokens=9, prompt_cache=turning(one)) as t:
            edit(one, LENGTH, LENGTH + 9)
    plain, _ = reference(one, PROMPT, 5, edit)
    assert t.tokens == plain[: len(t.tokens)] and len(t.tokens) >= 4


@pytest.mark.parametrize("read", ["pattern", "scores", "keys", "values"])
def test_what_is_saved_of_a_cache_that_turned_is_refused(one, read):
    with pytest.raises(PartOfTextError, match="the cache has dropped"):
        with one.generate(PROMPT, max_tokens=9, prompt_cache=turning(one)) as t:
            h = getattr(attn(one), read).save()
    assert len(h) == len(t.tokens) >= 4


@pytest.fixture(scope="module")
def wide() -> mg.InterpretableModel:
    """Heads of 32, which a quantised cache takes."""
    mx.random.seed(3)
    args = llama.ModelArgs(
        model_type="llama", hidden_size=64, num_hidden_layers=2, intermediate_size=64,
        num_attention_heads=2, num_key_value_heads=1, rms_norm_eps=1e-5, vocab_size=50,
    )  # fmt: skip
    module = llama.Model(args)
    module.update(tree_map(lambda w: 2.0 * w, module.parameters()))
    mx.eval(module.parameters())
    return mg.InterpretableModel(module)


def key_of_two_heads(m: Any, p: int, n: int) -> None:
    attn(m).pattern[..., 2] = 0.0
    attn(m).scores[:, :, 4:, 1] += 2.0


def one_key(m: Any, p: int, n: int) -> None:
    attn(m).keys[:, :, 2] = 0.0
    attn(m).values[:, :, 1:3] *= 3.0


@pytest.mark.parametrize("edit", [key_of_two_heads, one_key], ids=lambda e: e.__name__)
@pytest.mark.parametrize("options", CHUNKED, ids=str)
@pytest.mark.thin(3)
def test_a_quantised_cache_is_edited_by_positions_too(wide, edit, options):
    fixed = [9, 30, 2, 14, 27]  # the same tokens in each, for rounding may choose others

    def logits_with(edit: Any, **options: Any) -> list[mx.array]:
        rest = iter([*fixed, 0])
        _, found = generated(wide, edit, sampler=lambda _: mx.array([next(rest)]), **options)
        return found

    bits = {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 2}
    exact, plain = logits_with(edit, **options), logits_with(nothing, **options)
    mine, beside = logits_with(edit, **bits, **options), logits_with(nothing, **bits, **options)
    assert not all(mx.array_equal(a, b) for a, b in zip(mine, exact, strict=True))
    for step in range(COUNT):
        whole = traced(wide, PROMPT + fixed[:step], lambda m: m.output, edit)[0, -1]
        assert close(exact[step], whole)
    wanted = mx.stack(exact) - mx.stack(plain)
    found = mx.stack(mine) - mx.stack(beside)
    assert mx.linalg.norm(found - wanted).item() < 0.15 * mx.linalg.norm(wanted).item()


# -- without a block, and in a module -------------------------------------------------------------


def no_first_key(pattern: mx.array) -> mx.array:
    pattern[..., 0] = 0.0
    return pattern


@pytest.mark.parametrize("options", CHUNKED, ids=str)
def test_interventions_and_edits_by_name_are_the_same(one, options):
    def edit(m: Any, p: int, n: int) -> None:
        attn(m).pattern[..., 0] = 0.0

    def rows(m: Any, p: int, n: int) -> None:
        attn(m).pattern[:, [1, 3], 2:5] = 0.0

    wanted, _ = reference(one, PROMPT, COUNT, edit)
    name = f"layers.{LAYER}.self_attn.pattern"
    t = one.generate(PROMPT, max_tokens=COUNT, interventions={name: no_first_key}, **options)
    assert t.tokens == wanted
    graph = mg.edit(name, iv.zero_out, positions=slice(2, 5), heads=[1, 3])
    t = one.generate(PROMPT, max_tokens=COUNT, graph=graph, **options)
    expected, _ = reference(one, PROMPT, COUNT, rows)
    assert t.tokens == expected
    assert wanted != expected


def as_generated(m: Any, edit: Any, each_call: bool = False) -> Any:
    with m.edit() as edited:
        edit(edited, LENGTH, LENGTH + COUNT)
    return edited.as_module(each_call=each_call)


@pytest.mark.parametrize(
    "edit",
    [a_key_of_the_pattern, a_key_of_scores, rows_and_keys, of_both, a_position_of_keys, in_a_view],
    ids=lambda e: e.__name__,
)
@pytest.mark.parametrize("options", CHUNKED, ids=str)
@pytest.mark.thin(3)
def test_a_module_for_mlx_lm_counts_keys_from_the_start(one, edit, options):
    from mlx_lm.generate import generate_step

    tokens, _ = reference(one, PROMPT, COUNT, edit)
    module = as_generated(one, edit)
    found = []
    for token, _ in generate_step(mx.array(PROMPT), module, max_tokens=COUNT, **options):
        found.append(int(token))
    assert found[:COUNT] == tokens


def test_a_prompt_cache_holds_keys_that_can_be_edited(one):
    from mlx_lm.models.cache import make_prompt_cache

    def edit(m: Any, p: int, n: int) -> None:
        attn(m).pattern[:, :, 4:, 1] = 0.0

    tokens, wanted = reference(one, PROMPT, COUNT, edit)
    cache = make_prompt_cache(one.module)
    one.module(mx.array([PROMPT[:4]]), cache=cache)
    with one.generate(PROMPT[4:], max_tokens=COUNT, prompt_cache=cache) as t:
        edit(one, LENGTH, LENGTH + COUNT)
        pattern = attn(one).pattern.save()
        logits = one.output[:, -1].save()
    assert t.tokens == tokens
    assert all(close(a[0], b[-1]) for a, b in zip(logits, wanted, strict=True))
    whole = traced(one, PROMPT, lambda m: attn(m).pattern, edit)
    assert close(pattern[0], whole[:, :, 4:])


class Counting(nn.Module):
    """A module that counts how often it is called, and draws."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.times = inner, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.times += 1
        mx.random.uniform()
        return self.inner(*args, **kwargs)


def test_finding_the_keys_leaves_nothing_behind():
    module = models.make_llama()
    module.model.layers[1].mlp = Counting(module.model.layers[1].mlp)
    m = mg.InterpretableModel(module)
    quiet = mg.edit("layers.1.self_attn.pattern", no_first_key)

    def state_after(**options: Any) -> list:
        mx.random.seed(3)
        assert len(m.generate(PROMPT, max_tokens=2, **options).tokens) == 2
        return [part.tolist() for part in mx.random.state]

    mx.random.seed(3)
    before = [part.tolist() for part in mx.random.state]
    assert before != state_after() == state_after(graph=quiet)
    assert module.model.layers[1].mlp.times == 0
