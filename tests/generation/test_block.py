"""The block of a generation: steps, saves, the stream of tokens, and how it ends."""

from __future__ import annotations

import pickle
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from einops import rearrange

import mlxgraph as mg
from mlxgraph import interventions as iv
from tests import models
from tests.generation.prefixes import close, plain_tokens, reference

PROMPT = [7, 21, 3, 18, 40, 5, 33]
LENGTH, COUNT = len(PROMPT), 6
TEXT = "The capital of France is"


@pytest.fixture(scope="module")
def model() -> mg.InterpretableModel:
    return mg.InterpretableModel(models.make_llama())


@pytest.fixture(scope="module")
def tiny() -> mg.InterpretableModel:
    return mg.tiny()


def push(width: int = models.WIDTH) -> mx.array:
    return mx.linspace(-1.0, 2.0, width)


# -- saves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"prefill_step_size": 2}], ids=str)
def test_a_save_has_one_value_a_step_and_the_prompts_chunks_are_joined(model, options):
    with model.generate(PROMPT, max_tokens=COUNT, **options) as t:
        h = model.layers[1].output.save()
        logits = model.output.save("logits")
    assert len(h) == len(t.tokens) == COUNT and h.steps == tuple(range(COUNT))
    text = PROMPT + t.tokens[:-1]
    with model.trace(mx.array([text])):
        whole = model.layers[1].output.save()
        scores = model.output.save()
    assert h[0].shape == (1, LENGTH, models.WIDTH)
    assert all(value.shape == (1, 1, models.WIDTH) for value in list(h)[1:])
    assert close(mx.concatenate(list(h), axis=1), whole)
    assert close(mx.concatenate(list(logits), axis=1), scores)
    assert t.saved_values["logits"] is logits
    assert [v.shape for v in h[1:3]] == [(1, 1, models.WIDTH)] * 2
    assert h[-1] is h[COUNT - 1]


def test_a_save_of_one_position_has_a_value_where_that_is_held(model):
    with model.generate(PROMPT, max_tokens=COUNT) as t:
        h = model.layers[1].output
        third, newest = h[:, 3].save(), h[:, -1].save()
        fresh = h[:, LENGTH + 1].save()
        difference = (h[:, -1] - h[:, 3]).save()
    assert third.steps == (0,) and fresh.steps == (2,)
    assert newest.steps == difference.steps == tuple(range(COUNT))
    with model.trace(mx.array([PROMPT + t.tokens[:-1]])):
        whole = model.layers[1].output.save()
    assert close(third[0], whole[:, 3]) and close(fresh[2], whole[:, LENGTH + 1])
    for step in range(COUNT):
        at = LENGTH - 1 + step
        assert close(newest[step], whole[:, at])
        assert close(difference[step], whole[:, at] - whole[:, 3], 1e-3)


def test_nested_values_are_saved_by_step_too(model):
    with model.generate(PROMPT, max_tokens=3) as t:
        inputs = model.layers[1].self_attn.inputs.save()
        first = model.layers[1].self_attn.input.save()
    assert len(inputs) == 3 and inputs[0][0][0].shape == (1, LENGTH, models.WIDTH)
    for step in range(3):
        assert mx.array_equal(inputs[step][0][0], first[step])
    assert len(t.saved_values) == 2


def test_values_by_step_are_pickled_as_what_they_are(model):
    with model.generate(PROMPT, max_tokens=2):
        h = model.layers[1].output.save()
    again = pickle.loads(pickle.dumps(h))
    assert again.steps == h.steps
    assert all(mx.array_equal(a, b) for a, b in zip(again, h, strict=True))


# -- steps ----------------------------------------------------------------------------------------


def test_edits_under_a_step_are_made_at_that_step_alone(model):
    with model.generate(PROMPT, max_tokens=COUNT) as t:
        before = model.layers[1].output.save()
        with t.step[2:4]:
            model.layers[1].output *= 0.0
            inside = model.layers[1].output.save()
        with t.step[0]:
            model.layers[1].output += push()
        after = model.layers[1].output.save()
    assert inside.steps == (2, 3)
    for step in range(COUNT):
        wanted = before[step]
        if step == 0:
            wanted = wanted + push()
        elif step in (2, 3):
            wanted = wanted * 0.0
        assert close(after[step], wanted)


def test_a_step_is_the_same_edit_by_position(model):
    with model.generate(PROMPT, max_tokens=COUNT) as t:
        with t.iter[2]:
            model.layers[1].output += 20.0 * push()
    with model.generate(PROMPT, max_tokens=COUNT) as other:
        model.layers[1].output[:, LENGTH + 1] += 20.0 * push()
    with model.generate(PROMPT, max_tokens=COUNT) as third:
        with third.all():
            with third.step[2, 4]:
                with third.step[1:4]:
                    model.layers[1].output += 20.0 * push()
                    h = model.layers[0].output.save()
    assert t.tokens == other.tokens == third.tokens and h.steps == (2,)
    assert t.tokens != plain_tokens(model, PROMPT, COUNT)[0]


def test_the_prompt_may_be_given_what_another_prompt_had(tiny):
    with tiny.trace("The capital of Spain is"):
        clean = tiny.layers[2].output.save()
    with tiny.generate(TEXT, max_tokens=2) as t:
        with t.step[0]:
            tiny.layers[2].output[:, : clean.shape[1]] = clean
    assert t.text == tiny.generate("The capital of Spain is", max_tokens=2).text
    assert t.text != tiny.generate(TEXT, max_tokens=2).text


# -- operations -----------------------------------------------------------------------------------


class Coder(nn.Module):
    """A small autoencoder of one position."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(models.WIDTH, 64), nn.Linear(64, models.WIDTH)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down(nn.relu(self.up(x)))


def heads(m: Any, p: int, n: int) -> None:
    taken = m.layers[1].self_attn.o_proj.input
    rearrange(taken, "b s (h d) -> b h s d", h=models.HEADS)[:, 2] = 0


def normed(m: Any, p: int, n: int) -> None:
    h = m.layers[1].output
    h[:] = h / mx.linalg.norm(h, axis=-1, keepdims=True)


def without_direction(m: Any, p: int, n: int) -> None:
    h, v = m.layers[1].output, push() / mx.linalg.norm(push())
    h -= (h @ v)[..., None] * v


def coded(m: Any, p: int, n: int) -> None:
    h = m.layers[1].output
    h[:] = m.coder(h)


def largest(m: Any, p: int, n: int) -> None:
    h = m.layers[1].output
    h[:] = mx.where(h >= mx.sort(h, axis=-1)[..., -5:-4], h, 0.0)


def other_layer(m: Any, p: int, n: int) -> None:
    m.layers[1].output = 0.5 * m.layers[0].output + m.layers[1].output


def skipped(m: Any, p: int, n: int) -> None:
    m.layers[1].skip(m.layers[1].input)


def inputs(m: Any, p: int, n: int) -> None:
    m.layers[1].mlp.input = m.layers[1].mlp.input * push()


def the_mean_of_three(m: Any, p: int, n: int) -> None:
    h = m.layers[1].output
    if n > 4:
        h[:, 4] = h[:, 0:3].mean(axis=1)


def a_ramp(m: Any, p: int, n: int) -> None:
    h = m.layers[1].output
    h *= mx.arange(h.shape[1])[:, None] / 5.0


def transposed(m: Any, p: int, n: int) -> None:
    m.layers[1].output.transpose(0, 2, 1)[:, 3:9, 2:] = 0


def reversed_(m: Any, p: int, n: int) -> None:
    m.layers[1].output[:, 5:1:-2] = 0


def one_row(m: Any, p: int, n: int) -> None:
    m.layers[1].output[0, mx.array([1, 3])] += push()


def a_head_inside(m: Any, p: int, n: int) -> None:
    m.layers[1].self_attn.heads[:, 2] = 0.0


def token_ids(m: Any, p: int, n: int) -> None:
    m.input[:, 2] = 44
    if n > LENGTH:
        m.model.input[:, LENGTH] = 8


def a_pattern(m: Any, p: int, n: int) -> None:
    m.layers[1].self_attn.pattern[:, 1] *= 0.25


def all_scores(m: Any, p: int, n: int) -> None:
    m.layers[1].self_attn.scores = m.layers[1].self_attn.scores * 0.1


def some_queries(m: Any, p: int, n: int) -> None:
    m.layers[1].self_attn.queries[:, :, 2:8] *= 3.0


OPERATIONS = [token_ids, a_head_inside, a_pattern, all_scores, some_queries, heads,
              normed, without_direction, coded, largest, other_layer, skipped, inputs,
              the_mean_of_three, a_ramp, transposed, reversed_, one_row]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"prefill_step_size": 3}], ids=str)
@pytest.mark.parametrize("edit", OPERATIONS, ids=lambda edit: edit.__name__)
@pytest.mark.thin(6)
def test_an_operation_is_done_as_on_the_whole_text(model, edit, options):
    if "coder" not in model:
        mx.random.seed(3)
        model.coder = Coder()
    tokens, wanted = reference(model, PROMPT, COUNT, edit)
    with model.generate(PROMPT, max_tokens=COUNT, **options) as t:
        edit(model, LENGTH, LENGTH + COUNT - 1)
        logits = model.output.save()
    assert t.tokens == tokens
    for step in range(COUNT):
        assert close(logits[step][0, -1], wanted[step][-1])
    _, plain = reference(model, PROMPT, COUNT, lambda *_: None)
    assert not all(mx.array_equal(a, b) for a, b in zip(wanted, plain, strict=True))


def test_noise_is_drawn_anew_at_each_step_and_follows_the_seed(model):
    def run(seed: int) -> tuple[list[int], Any, Any]:
        mx.random.seed(seed)
        with model.generate(PROMPT, max_tokens=COUNT) as t:
            before = model.layers[1].output.save()
            h = model.layers[1].output
            h += mx.random.normal(h.shape)
            after = h.save()
        return t.tokens, before, after

    tokens, before, after = run(3)
    drawn = [a[:, -1] - b[:, -1] for a, b in zip(after, before, strict=True)]
    assert not close(drawn[1], drawn[2], 0.1)
    assert run(3)[0] == tokens
    assert not close(run(4)[2][0], after[0], 0.01)


# -- without a block, and in pieces ---------------------------------------------------------------


def test_a_graph_without_a_block_is_the_block(model):
    with model.generate(PROMPT, max_tokens=COUNT) as t:
        with t.step[1:]:
            model.layers[1].output += 2.0 * push()
        model.layers[1].output.save("h")
    other = model.generate(PROMPT, max_tokens=COUNT, graph=t.graph)
    assert other.tokens == t.tokens
    for a, b in zip(other.saved_values["h"], t.saved_values["h"], strict=True):
        assert mx.array_equal(a, b)
    assert t.tokens != model.generate(PROMPT, max_tokens=COUNT).tokens


def test_interventions_params_and_edits_that_stay_count(model):
    scaled = mg.edit("layers.1", iv.scale(mg.param("alpha")))
    given = model.generate(PROMPT, max_tokens=COUNT, graph=scaled, alpha=-0.5)
    assert given.tokens == model.generate(
        PROMPT, max_tokens=COUNT, interventions={"layers.1": iv.scale(-0.5)}
    ).tokens  # fmt: skip
    assert given.tokens == model.edit(scaled.bind(alpha=-0.5)).generate(
        PROMPT, max_tokens=COUNT
    ).tokens  # fmt: skip
    assert given.tokens != model.generate(PROMPT, max_tokens=COUNT).tokens


def test_a_stream_gives_tokens_as_they_come_and_stops_when_it_is_left(tiny):
    whole = tiny.generate(TEXT, max_tokens=6)
    with tiny.generate(TEXT, max_tokens=6) as t:
        h = tiny.layers[1].output.save()
        for token in t.stream():
            assert isinstance(token, int) and token == t.tokens[-1]
            if len(t.tokens) == 2:
                break
    assert t.tokens == whole.tokens[:2] and len(h) == 2
    pieces = list(tiny.generate(TEXT, max_tokens=6).stream())
    assert pieces == whole.tokens and "".join(p.text for p in pieces) == whole.text
    assert list(whole.stream()) == whole.tokens


def test_messages_go_through_the_chat_template(tiny):
    import copy

    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['content'] }} {% endfor %}"
    )
    chat = mg.InterpretableModel(tiny.module, tokenizer)
    messages = [{"role": "user", "content": "The capital of"}, {"role": "user", "content": "Spain"}]
    ids = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    ids = ids if isinstance(ids, list) else ids["input_ids"]
    found = chat.generate(messages, max_tokens=4)
    assert found.tokens == chat.generate(ids, max_tokens=4).tokens
    several = chat.generate([messages, messages[:1]], max_tokens=4)
    assert several.tokens[0] == found.tokens


def test_texts_to_stop_at_are_left_out_of_the_text(tiny):
    whole = tiny.generate(TEXT, max_tokens=6).text
    assert whole.startswith("Paris")
    stopped = tiny.generate(TEXT, max_tokens=6, stop=["zzz", "ris"])
    assert stopped.text == "Pa" and len(stopped.tokens) == 1
    held = tiny.generate(TEXT, max_tokens=6, stop="Paris!").text
    assert held == whole


def test_the_end_of_the_text_ends_it(tiny):
    t = tiny.generate(TEXT, max_tokens=50)
    assert t.tokens[-1] in tiny.tokenizer.eos_token_ids and len(t.tokens) < 50
    assert t.tokens == tiny.generate(TEXT, max_tokens=-1).tokens


def test_a_graph_with_steps_is_a_value_like_any_other(model, tmp_path):
    with model.generate(PROMPT, max_tokens=COUNT) as t:
        with t.step[0]:
            model.layers[1].output *= 0.5
            model.layers[1].output.save("first")
        with t.step[1:]:
            model.layers[0].output += push()
            model.layers[0].output.save("later")
    t.graph.save(tmp_path / "steps.mlxg")
    again = mg.Graph.load(tmp_path / "steps.mlxg")
    assert again == t.graph and "at_steps" in str(again)
    other = model.generate(PROMPT, max_tokens=COUNT, graph=again)
    assert other.tokens == t.tokens
    assert other.saved_values["first"].steps == (0,)
    assert other.saved_values["later"].steps == tuple(range(1, COUNT))
    saves = model.run(t.graph, mx.array([PROMPT])).saves  # a forward by itself is a step 0
    assert close(saves["first"], t.saved_values["first"][0]) and saves["later"] is None


def test_a_generation_in_another_models_block_is_its_own(model, tiny):
    from mlx_lm.sample_utils import make_sampler

    mx.random.seed(3)
    plain = model.generate(PROMPT, max_tokens=COUNT, sampler=make_sampler(temp=1.0)).tokens
    mx.random.seed(3)
    with tiny.trace(TEXT):
        tiny.layers[0].output *= 1.0
        found = model.generate(PROMPT, max_tokens=COUNT, sampler=make_sampler(temp=1.0)).tokens
        tiny.output.save()
    assert found == plain


def test_two_threads_generate_at_once(model):
    import threading

    wanted = {k: model.generate(PROMPT, max_tokens=12, graph=scaled(k)).tokens for k in range(4)}
    found: dict[int, list[int]] = {}

    def run(k: int) -> None:
        found[k] = model.generate(PROMPT, max_tokens=12, graph=scaled(k)).tokens

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == wanted and len(set(map(tuple, wanted.values()))) > 1


def scaled(k: int) -> mg.Graph:
    return mg.edit("layers.1", iv.scale(1.0 - k))


# -- mlx-lm's options -----------------------------------------------------------------------------


def test_samplers_and_processors_are_mlx_lms_own(model):
    from mlx_lm.sample_utils import make_logits_processors, make_sampler

    mx.random.seed(5)
    options = {
        "sampler": make_sampler(temp=1.0),
        "logits_processors": make_logits_processors(repetition_penalty=1.5),
    }
    plain = plain_tokens(model, PROMPT, COUNT, **options)[0]
    mx.random.seed(5)
    assert model.generate(PROMPT, max_tokens=COUNT, **options).tokens == plain


@pytest.mark.parametrize("kept", [3, LENGTH - 1])
def test_a_prompt_cache_is_gone_on_from_and_positions_count_from_its_first_token(model, kept):
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model.module)
    model.module(mx.array([PROMPT[:kept]]), cache=cache)
    with model.generate(PROMPT[kept:], max_tokens=COUNT, prompt_cache=cache) as t:
        h = model.layers[1].output
        h[:, LENGTH - 1] *= 0.0
        h[:, LENGTH + 2] += push()
        value = h.save()
    with model.generate(PROMPT, max_tokens=COUNT) as whole:
        h = model.layers[1].output
        h[:, LENGTH - 1] *= 0.0
        h[:, LENGTH + 2] += push()
    assert t.tokens == whole.tokens
    assert value[0].shape[1] == LENGTH - kept


@pytest.mark.parametrize("kind", ["rotating", "quantised"])
def test_rotating_and_quantised_caches_are_mlx_lms_own(kind):
    from mlx_lm.models import llama
    from mlx_lm.models.cache import RotatingKVCache

    mx.random.seed(2)
    module = llama.Model(
        llama.ModelArgs(
            model_type="llama", hidden_size=64, num_hidden_layers=2, intermediate_size=64,
            num_attention_heads=2, num_key_value_heads=1, rms_norm_eps=1e-5, vocab_size=50,
            head_dim=32,
        )
    )  # fmt: skip
    mx.eval(module.parameters())
    model = mg.InterpretableModel(module)

    def options() -> dict[str, Any]:
        if kind == "rotating":
            return {"prompt_cache": [RotatingKVCache(9, keep=4) for _ in module.layers]}
        return {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 2}

    plain = plain_tokens(model, PROMPT, 12, **options())[0]
    with model.generate(PROMPT, max_tokens=12, **options()) as t:
        model.layers[1].output *= 1.0
        h = model.layers[0].output.save()
    assert t.tokens == plain and len(h) == 12
    with model.generate(PROMPT, max_tokens=12, **options()) as edited:
        model.layers[1].output[:, 2:] += 3.0 * push(64)
    assert edited.tokens != plain
