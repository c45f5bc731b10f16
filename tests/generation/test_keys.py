"""What attention computes, in a generation: keys count from the start of the text, as queries do.

The reference is the whole text so far, traced anew for every token.
"""

from __future__ import annotations

import traceback
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_map
from mlx_lm.models import llama

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import BoundsError, PartOfTextError
from tests import models
from tests.architectures import configs
from tests.generation.prefixes import close, reference

PROMPT = [7, 21, 3, 18, 40, 5, 33]
LENGTH, COUNT = len(PROMPT), 5
TEXT = "The capital of France is"
CHUNKS = [{}, {"prefill_step_size": 3}, {"prefill_step_size": 1}, {"prefill_step_size": 2}]
CHUNKED = [pytest.param(c, marks=[] if k < 2 else [pytest.mark.slow]) for k, c in enumerate(CHUNKS)]
LAYER = 1  # its cache keeps every token, in each of them
ALWAYS = ("llama", "gemma3_text", "gpt_oss")
NAMES = configs.installed([*ALWAYS, "deepseek_v3"])


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[] if n in ALWAYS else [pytest.mark.slow]) for n in NAMES],
)
def model(request: pytest.FixtureRequest) -> mg.InterpretableModel:
    return mg.InterpretableModel(configs.build(request.param))


@pytest.fixture(scope="module")
def one() -> mg.InterpretableModel:
    return mg.InterpretableModel(models.make_llama())


@pytest.fixture(scope="module")
def tiny() -> mg.InterpretableModel:
    return mg.tiny()


def attn(m: Any) -> Any:
    return m.layers[LAYER].self_attn


# Every edit takes the model, the length of the prompt and that of the text so far.


def a_key_of_the_pattern(m: Any, p: int, n: int) -> None:
    attn(m).pattern[:, :, :, 0] = 0


def a_weaker_key(m: Any, p: int, n: int) -> None:
    attn(m).pattern[..., 3] *= 0.25


def a_key_to_come(m: Any, p: int, n: int) -> None:
    if n > p + 1:
        attn(m).pattern[..., p + 1] = 0.0


def a_row_of_scores(m: Any, p: int, n: int) -> None:
    attn(m).scores[:, :, 3] *= 0.1


def a_key_of_scores(m: Any, p: int, n: int) -> None:
    attn(m).scores[..., 2] += 3.0


def scores_of_later_keys(m: Any, p: int, n: int) -> None:
    scores = attn(m).scores
    scores[:, 1, :, 3:] -= 2.0
    scores[:, 2, p + 1 :, 2:p] += 1.0


def rows_and_keys(m: Any, p: int, n: int) -> None:
    attn(m).pattern[:, :, 4:, 1:3] = 0.2


def lists(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    pattern[..., [0, 2, 3]] *= 0.5
    pattern[:, 1, [4, 6], 0] = 0.3
    pattern[:, 2][..., mx.array([1, 2])] = 0.0


def an_array_for_keys(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    pattern *= 1.0 / (1.0 + mx.arange(pattern.shape[-1]))
    pattern[:, :, 4, :3] = mx.array([0.5, 0.0, 0.25])


def an_array_for_both(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    rows = mx.arange(pattern.shape[-2])[:, None]
    attn(m).pattern = pattern * (1.0 / (1.0 + rows + 2 * mx.arange(pattern.shape[-1])))


def shared_by_the_rest(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    pattern[..., 1] = 0.0
    attn(m).pattern = pattern / pattern.sum(axis=-1, keepdims=True)


def scaled_softmax(m: Any, p: int, n: int) -> None:
    attn(m).pattern = mx.softmax(0.5 * attn(m).scores, axis=-1)


def heads_by_hand(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    pattern[:, 1] *= 0.25
    values = mx.repeat(attn(m).values, pattern.shape[1] // attn(m).values.shape[1], axis=1)
    attn(m).heads = 0.5 * (pattern @ values)


def the_mean_head(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    attn(m).pattern = 0.5 * pattern + 0.5 * pattern.mean(axis=1, keepdims=True)


def a_normed_row(m: Any, p: int, n: int) -> None:
    row = attn(m).pattern[:, :, 4]
    attn(m).pattern[:, :, 4, 1:3] *= row.sum(axis=-1, keepdims=True) * 0.3


def of_both(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    attn(m).pattern = 0.5 * pattern + 0.5 * pattern[:, 1:2]


def a_row_of_another(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    pattern[:, :, 5, :3] = pattern[:, :, 2, :3]
    pattern[:, :, 6, 1] += pattern[:, :, 4, 0]


def in_a_view(m: Any, p: int, n: int) -> None:
    head = attn(m).pattern[:, 2]
    head[:, 2:, 1] = 0.0
    head[..., 0] *= 0.5


def by_the_row(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    pattern *= 1.0 - pattern[..., 0:1]
    pattern *= 1.0 - pattern[..., 1][..., None]
    pattern[:, 0] *= attn(m).queries[:, 0, :, :1]


def a_position_of_keys(m: Any, p: int, n: int) -> None:
    attn(m).keys[:, :, 2] = 0.0
    attn(m).keys[..., 4, :] *= 3.0


def positions_of_values(m: Any, p: int, n: int) -> None:
    attn(m).values[..., 1:3, :] = 0.0
    attn(m).values[:, 0, 3:] *= 2.0


def all_values(m: Any, p: int, n: int) -> None:
    values = attn(m).values
    values += 0.5 * values[:, :, :1].mean(axis=-1, keepdims=True)


def queries_and_keys(m: Any, p: int, n: int) -> None:
    attn(m).keys[..., 2, :] = attn(m).keys[..., 0, :]
    attn(m).queries[:, :, 2] *= 3.0


EDITS = [
    a_key_of_the_pattern, a_weaker_key, a_key_to_come, a_row_of_scores, a_key_of_scores,
    scores_of_later_keys, rows_and_keys, lists, an_array_for_keys, an_array_for_both, of_both,
    shared_by_the_rest, scaled_softmax, heads_by_hand, the_mean_head, a_normed_row,
    a_row_of_another, in_a_view, by_the_row, a_position_of_keys, positions_of_values, all_values,
    queries_and_keys,
]  # fmt: skip
BROAD = [
    a_key_of_the_pattern, a_row_of_scores, scores_of_later_keys, of_both, a_position_of_keys,
    positions_of_values,
]  # fmt: skip


def nothing(m: Any, p: int, n: int) -> None:
    pass


def generated(
    m: Any, edit: Any, prompt: list[int] = PROMPT, count: int = COUNT, **options: Any
) -> tuple[list[int], list[mx.array]]:
    with m.generate(mx.array(prompt), max_tokens=count, **options) as t:
        edit(m, len(prompt), len(prompt) + count - 1)
        logits = m.output[:, -1].save()
    return t.tokens, [logits[k][0] for k in range(count)]


def check(m: Any, edit: Any, wanted: Any = None, tolerance: float = 2e-4, **options: Any) -> None:
    tokens, logits = wanted or reference(m, PROMPT, COUNT, edit)
    found, mine = generated(m, edit, **options)
    assert found == tokens
    assert all(close(a, b[-1], tolerance) for a, b in zip(mine, logits, strict=True))


def felt(m: Any, edit: Any, wanted: Any) -> bool:
    """The positive control: the edit is felt, by more than the tolerance."""
    plain = reference(m, PROMPT, COUNT, nothing)[1]
    return not all(close(a[-1], b[-1]) for a, b in zip(wanted[1], plain, strict=True))


@pytest.mark.parametrize(
    "chunks", [pytest.param(CHUNKS, marks=pytest.mark.slow), CHUNKS[1:2]], ids=len
)
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_is_that_of_the_whole_text_whatever_the_chunks(one, edit: Any, chunks):
    wanted = reference(one, PROMPT, COUNT, edit)
    for options in chunks:
        check(one, edit, wanted, **options)
    assert felt(one, edit, wanted)


@pytest.mark.parametrize("edit", BROAD, ids=lambda edit: edit.__name__)
def test_an_edit_is_that_of_the_whole_text_in_each_architecture(model, edit: Any):
    wanted = reference(model, PROMPT, COUNT, edit)
    if edit in (a_position_of_keys, positions_of_values) and is_latent(model):
        with pytest.raises(PartOfTextError, match="another form"):
            generated(model, edit)
        return
    check(model, edit, wanted)
    check(model, edit, wanted, prefill_step_size=3)
    assert felt(model, edit, wanted)


def is_latent(m: Any) -> bool:
    """Whether keys and values are made in another way for one token than for many."""
    return m.module.model_type == "deepseek_v3"


@pytest.mark.parametrize("options", CHUNKED, ids=str)
def test_the_newest_key_and_query_are_those_of_each_step(one, options):
    def rows(m: Any, p: int, n: int) -> None:
        attn(m).pattern[:, :, p - 1 :, 0] = 0.0

    def newest(m: Any, p: int, n: int) -> None:
        attn(m).pattern[:, :, -1, 0] = 0.0

    check(one, newest, reference(one, PROMPT, COUNT, rows), **options)

    def diagonal(m: Any, p: int, n: int) -> None:
        for k in range(p - 1, n):
            attn(m).pattern[:, :, k, k] = 0.0
            attn(m).scores[:, 1, k, k - 1] -= 3.0

    def newest_key(m: Any, p: int, n: int) -> None:
        attn(m).pattern[:, :, -1, -1] = 0.0
        attn(m).scores[:, 1, -1, -2] -= 3.0

    def newest_of_all(m: Any, p: int, n: int) -> None:
        pattern = attn(m).pattern
        pattern[:, :, p - 1 :, -1] = 0.0
        attn(m).scores[:, 1, p - 1 :, -2:-1] -= 3.0

    wanted = reference(one, PROMPT, COUNT, diagonal)
    check(one, newest_key, wanted, **options)
    check(one, newest_of_all, wanted, **options)
    assert felt(one, diagonal, wanted)


# -- saves ----------------------------------------------------------------------------------------


def traced(m: Any, tokens: list[int], read: Any, edit: Any = nothing) -> mx.array:
    with m.trace(mx.array([tokens])):
        edit(m, LENGTH, len(tokens))
        value = read(m).save()
    return mx.array(value)


@pytest.mark.parametrize("options", CHUNKED, ids=str)
@pytest.mark.parametrize("edit", [nothing, rows_and_keys, a_weaker_key], ids=lambda e: e.__name__)
def test_a_save_is_what_the_whole_text_has_at_each_step(one, edit, options):
    reads = [
        (lambda m: attn(m).pattern, (-2, -1)),
        (lambda m: attn(m).scores, (-2, -1)),
        (lambda m: attn(m).keys, (None, -2)),
        (lambda m: attn(m).values, (None, -2)),
        (lambda m: attn(m).queries, (-2, None)),
        (lambda m: attn(m).heads, (-2, None)),
        (lambda m: attn(m).pattern[:, 1], (-2, -1)),
        (lambda m: attn(m).pattern[..., 2], (-1, None)),
        (lambda m: attn(m).pattern[..., 2:5], (-2, None)),
        (lambda m: attn(m).pattern[..., 3:], (-2, None)),
        (lambda m: attn(m).scores[..., [4, 1]], (-2, None)),
        (lambda m: attn(m).pattern * 0.5, (-2, -1)),
        (lambda m: attn(m).pattern.swapaxes(-1, -2), (-1, -2)),
        (lambda m: attn(m).pattern.mean(axis=1), (-2, -1)),
        (lambda m: attn(m).pattern.sum(axis=-1), (-1, None)),
        (lambda m: attn(m).scores.argmax(axis=-1), (-1, None)),
        (lambda m: mx.softmax(attn(m).scores, axis=-1), (-2, -1)),
    ]
    with one.generate(mx.array(PROMPT), max_tokens=COUNT, **options) as t:
        edit(one, LENGTH, LENGTH + COUNT)
        saves = [read(one).save() for read, _ in reads]
    for (read, (rows, _)), save in zip(reads, saves, strict=True):
        assert save.steps == tuple(range(COUNT))
        for step in range(COUNT):
            text = PROMPT + t.tokens[:step]
            whole = traced(one, text, read, edit)
            if rows is not None and step:
                where = [slice(None)] * whole.ndim
                where[rows] = slice(-1, None)
                whole = whole[tuple(where)]
            assert close(save[step], whole), (step, whole.shape, save[step].shape)


@pytest.mark.parametrize("options", CHUNKED, ids=str)
def test_a_saved_row_has_a_value_where_it_is_held(one, options):
    with one.generate(mx.array(PROMPT), max_tokens=COUNT, **options) as t:
        pattern = attn(one).pattern
        row, newest, entry = pattern[:, :, 3].save(), pattern[:, :, -1].save(), pattern[0, 0, 4, 2]
        entry = entry.save()
        late = pattern[:, :, LENGTH + 1, :3].save()
        block = pattern[:, :, 2:4, 1:6].save()
        keys = attn(one).keys[:, :, 2].save()
    assert row.steps == entry.steps == block.steps == (0,) and late.steps == (2,)
    assert newest.steps == keys.steps == tuple(range(COUNT))
    for step in range(COUNT):
        text = PROMPT + t.tokens[:step]
        whole = traced(one, text, lambda m: attn(m).pattern)
        assert close(newest[step], whole[:, :, -1])
        assert close(keys[step], traced(one, text, lambda m: attn(m).keys)[:, :, 2])
        if step == 0:
            assert close(row[0], whole[:, :, 3]) and close(entry[0], whole[0, 0, 4, 2])
            assert close(block[0], whole[:, :, 2:4, 1:6])
        if step == 2:
            assert close(late[2], whole[:, :, LENGTH + 1, :3])


def test_what_later_keys_hold_is_worked_out_or_else_the_chunks_are_as_they_were(one):
    def added(m: Any) -> Any:
        pattern = attn(m).pattern
        return pattern + mx.arange(pattern.shape[-1])

    with one.generate(PROMPT, max_tokens=3) as t:
        more, less = added(one).save(), (attn(one).pattern + 1.0).save()
        row = added(one)[:, :, 3].save()
        first = (attn(one).pattern[..., 6] + 1.0).save()
        chained = attn(one).pattern[:, :, 3][..., 6].save()
        entropy = -(attn(one).pattern * mx.log(attn(one).pattern + 1e-9)).sum(axis=-1)
        entropy = entropy.save()
    assert [chunk.shape for chunk in more[0]] == [(1, 4, 6, 6), (1, 4, 1, 7)]
    assert more[1].shape == (1, 4, 1, 8) and row[0].shape == (1, 4, 6)
    whole = traced(one, PROMPT, lambda m: attn(m).pattern)
    assert close(less[0], whole + 1.0) and close(first[0], whole[..., 6] + 1.0)
    assert chained[0].tolist() == [[0.0] * 4]
    assert len(t.tokens) == 3 and close(entropy[0], -(whole * mx.log(whole + 1e-9)).sum(axis=-1))
    for read in (
        lambda: added(one)[..., 6],
        lambda: added(one)[:, :, 3][..., 6],
        lambda: attn(one).pattern[..., 6:7].sum(axis=-1),
    ):
        with pytest.raises(PartOfTextError):
            with one.generate(PROMPT, max_tokens=3):
                read().save()


# -- attention to what comes later ----------------------------------------------------------------


@pytest.mark.parametrize("options", CHUNKED, ids=str)
def test_no_token_attends_to_a_later_one_whatever_is_written(one, options):
    def wanted(m: Any, p: int, n: int) -> None:
        attn(m).pattern[:, :, 5:, 5] = 0.3
        for k in range(n):
            attn(m).scores[:, 2, k, : k + 1] = 0.5

    def edit(m: Any, p: int, n: int) -> None:
        attn(m).pattern[..., 5] = 0.3
        attn(m).scores[:, 2] = 0.5

    expected = reference(one, PROMPT, COUNT, wanted)
    check(one, edit, expected, **options)
    assert felt(one, wanted, expected)

    def whole(m: Any, p: int, n: int) -> None:
        attn(m).scores = attn(m).scores * 0.0

    def uniform(m: Any, p: int, n: int) -> None:
        for k in range(n):
            attn(m).pattern[:, :, k, : k + 1] = 1.0 / (k + 1)

    check(one, whole, reference(one, PROMPT, COUNT, uniform), **options)


def test_a_key_after_its_query_is_refused_where_it_is_named(one):
    with pytest.raises(PartOfTextError, match="later token") as raised:
        with one.generate(PROMPT, max_tokens=3):
            attn(one).pattern[:, :, 2, 5] = 1.0
    assert traceback.extract_tb(raised.value.__traceback__)[-1].filename == __file__


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


def test_steps_have_keys_too(one):
    with one.generate(PROMPT, max_tokens=COUNT) as t:
        with t.step[2:]:
            attn(one).pattern[..., 0] = 0.0
            inside = attn(one).pattern.save()

    def edit(m: Any, p: int, n: int) -> None:
        attn(m).pattern[:, :, p + 1 :, 0] = 0.0

    tokens, _ = reference(one, PROMPT, COUNT, edit)
    assert t.tokens == tokens and inside.steps == (2, 3, 4)
    assert inside[2][..., 0].max().item() == 0.0 < inside[2].max().item()


def test_the_embedded_model_forgets_what_it_is_asked_about(tiny):
    ids = tiny.encode(TEXT)

    def edit(m: Any, p: int, n: int) -> None:
        for layer in m.layers:
            layer.attn.pattern[..., 4] *= 0.0  # " France"

    def same(m: Any, p: int, n: int) -> None:
        for layer in m.layers:
            layer.attn.pattern[:, :, 4:, 4] = 0.0

    tokens, wanted = reference(tiny, ids, 2, same)
    for options in CHUNKS:
        found, logits = generated(tiny, edit, ids, 2, **options)
        assert found == tokens
        assert all(close(a, b[-1]) for a, b in zip(logits, wanted, strict=True))
    assert tokens != reference(tiny, ids, 2, nothing)[0]


def test_what_cannot_be_tracked_says_what_to_write(one):
    def normed(m: Any) -> None:
        attn(m).pattern /= attn(m).pattern.mean(axis=-1, keepdims=True)

    def turned(m: Any) -> None:
        attn(m).pattern = attn(m).pattern.swapaxes(-1, -2)

    def added_up(m: Any) -> None:
        attn(m).keys -= attn(m).keys.mean(axis=2, keepdims=True)

    def by_value(m: Any) -> None:
        pattern = attn(m).pattern
        pattern[pattern > 0.5] = 0.0

    def shifted(m: Any) -> None:
        pattern = attn(m).pattern
        pattern[..., 1:] = pattern[..., :-1]

    def beside(m: Any) -> None:
        attn(m).heads += attn(m).values.mean(axis=-1, keepdims=True)[:, :1]

    for edit in (turned, added_up, by_value, shifted, beside, normed):
        with pytest.raises(PartOfTextError) as raised:
            with one.generate(PROMPT, max_tokens=3) as t:
                edit(one)
        assert traceback.extract_tb(raised.value.__traceback__)[-1].filename == __file__, edit
        assert t.tokens == []


@pytest.mark.parametrize("key", [LENGTH + 3, -LENGTH - 4])
def test_a_key_that_the_text_never_has_is_out_of_bounds(one, key):
    with pytest.raises(BoundsError):
        with one.generate(PROMPT, max_tokens=3):
            attn(one).pattern[..., key] = 0.0


def test_no_text_is_too_short_for_a_key_that_never_comes(one):
    with one.generate(PROMPT, max_tokens=4) as t:
        attn(one).values[:, :, LENGTH + 3] = 0.0
        attn(one).pattern[..., LENGTH + 3 :] = 0.5
        h = attn(one).pattern[..., LENGTH + 3].save()
    assert t.tokens == reference(one, PROMPT, 4, nothing)[0] and h.steps == ()
