"""Models of other packages, small and random, where the packages can be imported.

Nothing is installed and nothing is loaded: each model is built from a small configuration.  What is
asked of each is the same: its output is read, written, saved whole, and rebuilt as what it was.
"""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import Any

import mlx.core as mx
import pytest

import mlxgraph as mg
from tests import models

pytestmark = pytest.mark.slow
TOKENS = mx.array([[1, 7, 3, 9, 4, 2]])


def imported(name: str) -> Any:
    """A module of a package, or no test."""
    try:
        return import_module(name)
    except ImportError as error:
        pytest.skip(f"{name}: {error}")


def llava() -> tuple[Any, tuple]:
    package = imported("mlx_vlm.models.llava")
    text = package.TextConfig(
        model_type="llama", hidden_size=32, num_hidden_layers=3, intermediate_size=64,
        num_attention_heads=4, num_key_value_heads=2, vocab_size=50,
    )  # fmt: skip
    return package.LanguageModel(text), (TOKENS,)


def qwen2_vl() -> tuple[Any, tuple]:
    package = imported("mlx_vlm.models.qwen2_vl")
    text = package.TextConfig(
        model_type="qwen2_vl", hidden_size=32, num_hidden_layers=2, intermediate_size=64,
        num_attention_heads=4, num_key_value_heads=2, vocab_size=50, rms_norm_eps=1e-6,
        rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]},
    )  # fmt: skip
    vision = package.VisionConfig(model_type="qwen2_vl")
    config = package.ModelConfig(text_config=text, vision_config=vision, model_type="qwen2_vl")
    return package.LanguageModel(text, config), (TOKENS,)


def gemma3() -> tuple[Any, tuple]:
    package = imported("mlx_vlm.models.gemma3")
    text = package.TextConfig(
        model_type="gemma3", hidden_size=32, num_hidden_layers=6, intermediate_size=64,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, vocab_size=50,
    )  # fmt: skip
    return package.LanguageModel(text), (TOKENS,)


def bert() -> tuple[Any, tuple]:
    package = imported("mlx_embeddings.models.bert")
    config = package.ModelArgs(
        model_type="bert", num_hidden_layers=2, num_attention_heads=4, hidden_size=32,
        intermediate_size=64, max_position_embeddings=32, vocab_size=50,
    )  # fmt: skip
    return package.Model(config), (TOKENS,)


def xlm_roberta() -> tuple[Any, tuple]:
    package = imported("mlx_embeddings.models.xlm_roberta")
    config = package.ModelArgs(
        model_type="xlm-roberta", num_hidden_layers=2, num_attention_heads=4, hidden_size=32,
        intermediate_size=64, max_position_embeddings=32, vocab_size=50,
    )  # fmt: skip
    return package.Model(config), (TOKENS,)


def whisper() -> tuple[Any, tuple]:
    package = imported("mlx_whisper.whisper")
    sizes = package.ModelDimensions(8, 6, 32, 4, 2, 50, 16, 32, 4, 2)
    return package.Whisper(sizes, mx.float32), (mx.random.normal((1, 12, 8)), TOKENS)


MODELS = [llava, qwen2_vl, gemma3, bert, xlm_roberta, whisper]


@pytest.fixture(params=MODELS, ids=lambda make: make.__name__)
def case(request) -> tuple[mg.InterpretableModel, tuple]:
    mx.random.seed(3)
    module, inputs = request.param()
    mx.eval(module.parameters())
    module.eval()
    return mg.InterpretableModel(module), inputs


def arrays(value: Any) -> dict[str, mx.array]:
    """The arrays of an output by their names; `""` for one that is an array itself."""
    if isinstance(value, mx.array):
        return {"": value}
    found = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {name: item for name, item in found.items() if isinstance(item, mx.array)}


def part(handle: Any, name: str) -> Any:
    return getattr(handle, name) if name else handle


@pytest.mark.parametrize("compile", [False, True, "auto"])
def test_outputs_are_read_written_and_saved_whole(case, compile):
    model, inputs = case
    truth = model.module(*inputs)
    for _ in range(3):
        with model.trace(*inputs, compile=compile) as t:
            kept = {name: part(model.output, name).save() for name in arrays(truth)}
            whole = model.output.save()
        assert type(t.output) is type(truth)
        for name, array in arrays(truth).items():
            assert models.same(kept[name], array, 1e-4), name
            assert models.same(part(whole, name), array, 1e-4), name
    name = next(iter(arrays(truth)))
    for _ in range(2):
        with model.trace(*inputs, compile=compile):
            part(model.output, name)[:, -1] = 0
            cut = part(model.output, name).save()
            if name:
                setattr(model.output, name, part(model.output, name) + 1)
                more = part(model.output, name).save()
        assert not cut[:, -1].any() and cut[:, 0].any()
        if name:
            assert models.same(more, cut + 1, 1e-6)
    with model.trace(*inputs, compile=compile):
        again = part(model.output, name).save()
    assert models.same(again, arrays(truth)[name], 1e-4)


def test_an_edited_model_and_a_file_give_the_models_own_output(case, tmp_path):
    model, inputs = case
    truth = model.module(*inputs)
    name = next(iter(arrays(truth)))
    with model.trace(*inputs) as t:
        h = part(model.output, name)
        h *= 2
    t.graph.save(tmp_path / "twice.mlxg")
    graph = mg.Graph.load(tmp_path / "twice.mlxg")
    edited = model.edit(graph)
    for run in (edited, edited, lambda *given: model.run(graph, *given).output, edited):
        found = run(*inputs)
        assert type(found) is type(truth)
        assert models.same(arrays(found)[name], arrays(truth)[name] * 2, 1e-4)


def test_every_site_is_what_an_identity_edit_leaves(case):
    model, inputs = case
    truth = arrays(model.module(*inputs))
    with model.trace(*inputs) as t:
        pass
    for site in list(t.activations)[:-1]:
        name = site.removeprefix("model.")
        with model.trace(*inputs):
            model[name].output = model[name].output
            found = model.output.save()
        for key, array in truth.items():
            assert models.same(part(found, key), array, 1e-4), (name, key)
