"""`as_module`: mlx-lm's own functions take an edited model, unchanged, and give its numbers."""

from __future__ import annotations

import argparse
import sys
import types
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import mlx_lm
import pytest
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import BoundsError, MissingParamError, PartOfTextError
from tests import models
from tests.generation.prefixes import close, reference

PROMPT = [7, 21, 3, 18, 40, 5, 33]
TEXT = "The capital of France is"


@pytest.fixture
def llama() -> mg.InterpretableModel:
    return mg.InterpretableModel(models.make_llama(tied=False))


def steer() -> Any:
    return mg.edit("layers.1", iv.add_vector(mx.linspace(-1.0, 2.0, models.WIDTH)))


def tokens_of(module: nn.Module, count: int = 5, prompt: Any = None, **options: Any) -> list[int]:
    prompt = mx.array(PROMPT if prompt is None else prompt)
    found = generate_step(prompt, module, max_tokens=count, **options)
    return [int(token) for (token, _), _ in zip(found, range(count), strict=False)]


def test_generate_and_stream_generate_take_it():
    model = mg.tiny()
    quiet = mg.edit("layers.*.mlp", iv.scale(0.3))
    module = model.edit(quiet).as_module()
    wanted = model.generate(TEXT, max_tokens=6, graph=quiet)
    pieces = mlx_lm.stream_generate(module, model.tokenizer, TEXT, max_tokens=6)
    assert [piece.token for piece in pieces] == wanted.tokens
    assert mlx_lm.generate(module, model.tokenizer, TEXT, max_tokens=6) == wanted.text
    plain = mlx_lm.generate(model.module, model.tokenizer, TEXT, max_tokens=6)
    assert plain != wanted.text
    assert mlx_lm.generate(model.as_module(), model.tokenizer, TEXT, max_tokens=6) == plain


@pytest.mark.parametrize(
    "options",
    [{}, {"prefill_step_size": 2}, {"max_kv_size": 64}, {"prefill_step_size": 1}],
    ids=str,
)
def test_a_position_is_the_same_token_in_every_call(llama, options):
    graph = mg.edit("layers.1", iv.zero_out, positions=2)
    module = llama.edit(graph).as_module()

    def zero(m: Any, prompt: int, length: int) -> None:
        m.layers[1].output[:, 2] = 0.0

    tokens, logits = reference(llama, PROMPT, 5, zero)
    assert tokens_of(module, **options) == tokens
    cache = make_prompt_cache(module)
    first = module(mx.array([PROMPT[:5]]), cache=cache)
    rest = module(mx.array([PROMPT[5:]]), cache=cache)
    assert close(mx.concatenate([first, rest], axis=1)[0], logits[0])
    assert not close(logits[0], llama.module(mx.array([PROMPT]))[0])
    assert tokens_of(module, **options) == llama.generate(
        PROMPT, max_tokens=5, graph=graph, **options
    ).tokens  # fmt: skip


def test_batch_generate_takes_edits_of_every_position():
    model = mg.tiny()
    graph = mg.edit("layers.1", iv.scale(-1.0))
    texts = [TEXT, "The capital", "Mary and John went to the"]
    ids = [model.encode(text) for text in texts]
    module = model.edit(graph).as_module()
    found = mlx_lm.batch_generate(
        module, model.tokenizer, ids, max_tokens=6, return_token_ids=True
    ).token_ids
    ends = set(model.tokenizer.eos_token_ids)
    alone = [model.generate(text, max_tokens=6, graph=graph).tokens for text in texts]
    assert found == [[token for token in row if token not in ends] for row in alone]
    plain = [model.generate(text, max_tokens=6).tokens for text in texts]
    assert alone != plain


def test_positions_from_the_end_are_refused_where_the_end_is_not_known(llama):
    graph = mg.edit("layers.1", iv.zero_out, positions=-1)
    module = llama.edit(graph).as_module()
    cache = make_prompt_cache(module)
    with pytest.raises(PartOfTextError, match="each_call=True"):
        module(mx.array([PROMPT]), cache=cache)
    one = llama.edit(graph).as_module(each_call=True)
    cache = make_prompt_cache(one)
    first, last = (one(mx.array([part]), cache=cache) for part in (PROMPT[:5], PROMPT[5:]))

    with llama.trace(mx.array([PROMPT])):
        llama.layers[1].output[:, [4, 6]] = 0.0
        wanted = llama.output.save()
    assert close(mx.concatenate([first, last], axis=1)[0], wanted[0])
    whole = module(mx.array([PROMPT]))
    assert mx.array_equal(whole, llama.edit(graph)(mx.array([PROMPT])))


@pytest.mark.parametrize("prompt", [PROMPT, PROMPT[:2], PROMPT[:1], PROMPT * 3], ids=len)
@pytest.mark.parametrize("size", [1, 3, 2048])
@pytest.mark.parametrize("positions", [-1, -2, slice(-2, None)], ids=str)
@pytest.mark.thin(6)
def test_positions_from_the_end_are_those_of_mlx_lms_own_steps(llama, positions, size, prompt):
    graph = mg.edit("layers.1", iv.scale(-3.0), positions=positions)
    module = llama.edit(graph).as_module()
    wanted = llama.generate(prompt, max_tokens=5, graph=graph, prefill_step_size=size).tokens
    steps = generate_step(mx.array(prompt), module, max_tokens=5, prefill_step_size=size)
    assert [int(token) for token, _ in steps] == wanted


def test_the_newest_token_of_each_text_of_a_batch_is_edited(llama):
    graph = mg.edit("layers.1", iv.scale(-3.0), positions=-1)
    module = llama.edit(graph).as_module()
    rows = [PROMPT, PROMPT[:4], [9, 12, 30, 2, 7]]
    batch = types.SimpleNamespace(eos_token_ids=[], decode=str)
    found = mlx_lm.batch_generate(module, batch, rows, max_tokens=6, return_token_ids=True)
    alone = [llama.generate(row, max_tokens=6, graph=graph).tokens for row in rows]
    assert found.token_ids == alone
    assert alone != [llama.generate(row, max_tokens=6).tokens for row in rows]


@pytest.mark.parametrize("positions", [2, slice(3, None), 8], ids=str)
def test_positions_count_from_the_start_of_each_text_of_a_batch(llama, positions):
    graph = mg.edit("layers.1", iv.scale(-3.0), positions=positions)
    module = llama.edit(graph).as_module()
    rows = [PROMPT, PROMPT[:4], [9, 12, 30, 2, 7]]
    batch = types.SimpleNamespace(eos_token_ids=[], decode=str)
    found = mlx_lm.batch_generate(module, batch, rows, max_tokens=6, return_token_ids=True)
    alone = [llama.generate(row, max_tokens=6, graph=graph).tokens for row in rows]
    assert found.token_ids == alone
    assert alone != [llama.generate(row, max_tokens=6).tokens for row in rows]


def test_what_another_call_was_given_is_not_read(llama):
    with llama.edit() as edited:
        llama.layers[1].output[:, 4:] += llama.layers[0].output[:, 2:3]
    module = edited.as_module()
    cache = make_prompt_cache(module)
    module(mx.array([PROMPT]), cache=cache)
    with pytest.raises(PartOfTextError, match="another call"):
        module(mx.array([[5]]), cache=cache)
    assert mx.array_equal(module(mx.array([PROMPT])), edited(mx.array([PROMPT])))


def test_what_has_no_meaning_says_so_when_the_module_is_made(llama):
    with pytest.raises(MissingParamError):
        llama.edit(mg.edit("layers.1", iv.scale(mg.param("alpha")))).as_module()
    with llama.generate(PROMPT, max_tokens=3) as t:
        with t.step[1:]:
            llama.layers[1].output *= 0.5
    with pytest.raises(PartOfTextError, match="steps"):
        llama.edit(t.graph).as_module()
    with llama.edit() as edited:
        h = llama.layers[1].output
        h -= h.mean(axis=1, keepdims=True)
    with pytest.raises(PartOfTextError, match="over all positions"):
        edited.as_module()
    with llama.trace(mx.array([PROMPT])) as t:
        llama.layers[1].output[:, 6] = 0.0
    assert isinstance(llama.edit(t.graph).as_module(), nn.Module)
    with pytest.raises(BoundsError):
        llama.edit(t.graph)(mx.array([PROMPT[:3]]))


def test_everything_but_its_call_is_the_modules_own(llama):
    root, module = llama.module, llama.edit(steer()).as_module()
    assert isinstance(module, nn.Module)
    assert module.layers[0] is root.layers[0]
    assert module.args is root.args and module.model_type == "llama"
    assert [name for name, _ in tree_flatten(module.parameters())] == [
        name for name, _ in tree_flatten(root.parameters())
    ]
    assert module.state is root.state
    assert module.train() is module and root.training
    assert module.eval() is module and not root.training
    module.freeze()
    assert not tree_flatten(root.trainable_parameters())
    module.unfreeze()
    head = mx.zeros_like(root.lm_head.weight)
    module.update({"lm_head": {"weight": head}})
    assert root.lm_head.weight is head
    assert mx.abs(module(mx.array([PROMPT]))).max().item() == 0.0
    module.lm_head = nn.Linear(models.WIDTH, 5, bias=False)
    assert root.lm_head is module.lm_head is module["lm_head"]
    assert module(mx.array([PROMPT])).shape == (1, 7, 5)
    assert mx.array_equal(dict(tree_flatten(dict.items(module)) and module)["lm_head"].weight,
                          root.lm_head.weight)  # fmt: skip


def test_a_copy_is_of_a_copy_of_the_model(llama):
    import copy

    module = llama.edit(steer()).as_module()
    x = mx.array([PROMPT])
    twin = copy.deepcopy(module)
    wanted = module(x)
    assert mx.array_equal(twin(x), wanted) and twin.lm_head is not module.lm_head
    twin.lm_head.weight = mx.zeros_like(twin.lm_head.weight)
    assert mx.array_equal(module(x), wanted) and not mx.array_equal(twin(x), wanted)


def test_weights_that_change_are_seen_by_the_next_call(llama):
    module = llama.edit(steer()).as_module()
    cache = make_prompt_cache(module)
    before = module(mx.array([PROMPT]), cache=cache)
    llama.module.lm_head.weight = llama.module.lm_head.weight * 2.0
    after = module(mx.array([PROMPT]), cache=make_prompt_cache(module))
    assert close(after, 2.0 * before)


def test_gradients_are_those_of_the_forward_written_out(llama):
    module, root = llama.edit(steer()).as_module(), llama.module
    push = mx.linspace(-1.0, 2.0, models.WIDTH)
    x = mx.array([PROMPT])

    def by_hand(m: Any, x: mx.array) -> mx.array:
        from mlx_lm.models.base import create_attention_mask

        h = m.model.embed_tokens(x)
        mask = create_attention_mask(h, None)
        for k, layer in enumerate(m.model.layers):
            h = layer(h, mask)
            h = h + push if k == 1 else h
        return (m.lm_head(m.model.norm(h)) ** 2).mean()

    def edited(m: Any, x: mx.array) -> mx.array:
        return (m(x) ** 2).mean()

    loss, grads = nn.value_and_grad(module, edited)(module, x)
    wanted, theirs = nn.value_and_grad(root, by_hand)(root, x)
    assert close(loss, wanted)
    for (name, mine), (other, hers) in zip(tree_flatten(grads), tree_flatten(theirs), strict=True):
        assert name == other and close(mine, hers, 1e-3), name
    assert any(mx.abs(g).max().item() > 0 for _, g in tree_flatten(grads))


def test_the_trainer_trains_lora_on_it(llama, tmp_path):
    from mlx_lm.tuner.trainer import TrainingArgs, train
    from mlx_lm.tuner.utils import linear_to_lora_layers

    module = llama.edit(steer()).as_module()
    module.freeze()
    linear_to_lora_layers(module, 2, {"rank": 2, "scale": 10.0, "dropout": 0.0})
    names = [name for name, _ in tree_flatten(module.trainable_parameters())]
    assert names and all("lora" in name for name in names)
    before = {name: value for name, value in tree_flatten(llama.module.parameters())}
    mx.eval(before)
    losses: list[float] = []

    class Heard:
        def on_train_loss_report(self, info: dict[str, Any]) -> None:
            losses.append(info["train_loss"])

        def on_val_loss_report(self, info: dict[str, Any]) -> None:
            pass

    text = [*PROMPT, 9, 30, 12, 2]
    train(
        module,
        optim.Adam(learning_rate=1e-2),
        [(text, 0), (text, 0)],
        args=TrainingArgs(
            batch_size=2, iters=30, steps_per_report=10, steps_per_eval=100, max_seq_length=32,
            adapter_file=str(tmp_path / "adapters.safetensors"),
        ),
        training_callback=Heard(),
    )  # fmt: skip
    assert losses[-1] < losses[0]
    after = dict(tree_flatten(llama.module.parameters()))
    for name, value in before.items():
        changed = not mx.array_equal(value, after[name])
        if "lora_a" not in name:  # the gradient of the first step is nothing there
            assert changed == (name in names)
    adapters = mx.load(str(tmp_path / "adapters.safetensors"))
    assert set(adapters) == set(names)


@pytest.fixture
def evaluation(monkeypatch):
    """mlx-lm's LM for evaluations; the harness that calls it is not needed for its forwards."""
    if "lm_eval" not in sys.modules:
        harness, api = types.ModuleType("lm_eval"), types.ModuleType("lm_eval.api")
        model, registry = types.ModuleType("lm_eval.api.model"), types.ModuleType("registry")
        model.LM = type("LM", (), {})
        registry.register_model = lambda name: lambda kind: kind
        harness.api, api.model, api.registry = api, model, registry
        for name, made in (
            ("lm_eval", harness), ("lm_eval.api", api), ("lm_eval.api.model", model),
            ("lm_eval.api.registry", registry),
        ):  # fmt: skip
            monkeypatch.setitem(sys.modules, name, made)
        if "tqdm" not in sys.modules:
            tqdm = types.ModuleType("tqdm")
            tqdm.tqdm = lambda values, **_: values
            monkeypatch.setitem(sys.modules, "tqdm", tqdm)
    monkeypatch.delitem(sys.modules, "mlx_lm.evaluate", raising=False)
    import mlx_lm.evaluate as evaluate

    return evaluate


def test_the_wrapper_for_evaluations_scores_it(evaluation):
    model = mg.tiny()
    edited = model.edit(mg.edit("layers.1", iv.scale(-1.0)))
    wrapper = object.__new__(evaluation.MLXLM)
    wrapper._model, wrapper.tokenizer = edited.as_module(), model.tokenizer
    rows = [model.encode(TEXT), model.encode("The capital of")]
    scores, lengths, _ = wrapper._score_fn(rows, step_size=3)
    for row, mine, length in zip(rows, scores, lengths.tolist(), strict=True):
        logprobs = nn.log_softmax(edited(mx.array([row]))[0].astype(mx.float32))
        wanted = [logprobs[k, row[k + 1]].item() for k in range(len(row) - 1)]
        assert close(mine[: length - 1], mx.array(wanted))


def test_the_server_takes_it(monkeypatch):
    import mlx_lm.server as server

    model = mg.tiny()
    edited = model.edit(mg.edit("layers.1", iv.scale(-1.0)))
    module = edited.as_module()
    monkeypatch.setattr(server, "load", lambda *_, **__: (module, model.tokenizer, {}))
    provider = server.ModelProvider(
        argparse.Namespace(
            model="edited", adapter_path=None, draft_model=None, pipeline=False,
            trust_remote_code=False, chat_template=None, use_default_chat_template=False,
        )
    )  # fmt: skip
    loaded, tokenizer = provider.load("edited")
    assert loaded is module and provider.is_batchable
    found = mlx_lm.generate(loaded, tokenizer, TEXT, max_tokens=4)
    assert found == edited.generate(TEXT, max_tokens=4).text
    assert found != model.generate(TEXT, max_tokens=4).text
