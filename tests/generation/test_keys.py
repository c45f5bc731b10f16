"""What attention computes, in a generation: keys count from the text's start, as queries do."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

import mlxgraph as mg
from mlxgraph.errors import BoundsError, PartOfTextError
from tests.architectures import configs
from tests.generation.keys import (
    BROAD,
    CHUNKED,
    CHUNKS,
    COUNT,
    EDITS,
    LENGTH,
    PROMPT,
    TEXT,
    a_position_of_keys,
    attn,
    check,
    felt,
    generated,
    nothing,
    positions_of_values,
)
from tests.generation.prefixes import close, reference

ALWAYS = ("llama", "gemma3_text", "gpt_oss")
NAMES = configs.installed([*ALWAYS, "deepseek_v3"])


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[] if n in ALWAYS else [pytest.mark.slow]) for n in NAMES],
)
def model(request: pytest.FixtureRequest) -> mg.InterpretableModel:
    return mg.InterpretableModel(configs.build(request.param))


@pytest.fixture(scope="module")
def tiny() -> mg.InterpretableModel:
    return mg.tiny()


@pytest.mark.parametrize(
    "chunks", [pytest.param(CHUNKS, marks=pytest.mark.slow), CHUNKS[1:2]], ids=len
)
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.thin(4)
def test_an_edit_is_that_of_the_whole_text_whatever_the_chunks(one, edit: Any, chunks):
    wanted = reference(one, PROMPT, COUNT, edit)
    for options in chunks:
        check(one, edit, wanted, **options)
    assert felt(one, edit, wanted)


@pytest.mark.parametrize("edit", BROAD, ids=lambda edit: edit.__name__)
@pytest.mark.thin(4)
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
