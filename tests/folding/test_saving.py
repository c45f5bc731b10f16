"""A saved model is a folder that mlx-lm loads, and the model that it was."""

from __future__ import annotations

import copy
import json

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm import load
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.utils import load_model

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import SaveModelError
from tests.folding.helpers import (
    TEXT,
    TOKENS,
    apart,
    built,
    direction,
    equal,
    first,
    quantised,
    weights_of,
)

WAYS = [{}, {"bits": 4}, {"bits": 8, "group_size": 64}, {"bits": 4, "mode": "mxfp4"}]


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.thin(3)
def test_mlx_lm_loads_it_as_it_is(tmp_path, how):
    model = mg.tiny()
    if how:
        nn.quantize(model.module, **{"group_size": 32, **how})
        model.refresh()
    folded = model.fold(mg.directional_ablation(model, direction(128)), untie=True)
    folded.save(tmp_path / "new")
    module, tokenizer = load(str(tmp_path / "new"))
    tokens = tokenizer.encode(TEXT)
    assert tokens == model.encode(TEXT)
    assert mx.array_equal(module(mx.array([tokens])), folded(TEXT))
    again = mg.InterpretableModel(str(tmp_path / "new"))
    assert equal(weights_of(again), weights_of(folded))
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert config["model_type"] == "llama"
    assert ("quantization" in config) == bool(how)
    assert apart(again(TEXT), model(TEXT)) > 1e-2


@pytest.mark.parametrize("name", ["gpt2", "mixtral", "qwen3_moe", "gemma2", "mistral3"])
def test_models_that_were_not_loaded_say_their_own_config(tmp_path, name):
    model = quantised(built(name))
    folded = model.fold(mg.edit("layers.*.mlp", iv.project_out(direction(64))))
    folded.save(tmp_path / "new")
    module, _ = load_model(tmp_path / "new")
    assert mx.array_equal(first(module(TOKENS)), first(folded(TOKENS)))
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_modules_in_other_bits_keep_them(tmp_path):
    model = mg.tiny()
    bits = {"mlp": 8, "self_attn": 4}
    how = lambda path, m: (  # noqa: E731
        hasattr(m, "to_quantized")
        and next(({"group_size": 32, "bits": b} for n, b in bits.items() if n in path), False)
    )
    nn.quantize(model.module, class_predicate=how)
    model.refresh()
    model.save(tmp_path / "new")
    module, _ = load(str(tmp_path / "new"))
    assert mx.array_equal(module(mx.array([model.encode(TEXT)])), model(TEXT))
    assert module.layers[0].mlp.down_proj.bits == 8
    assert module.layers[0].self_attn.o_proj.bits == 4


def test_what_cannot_be_saved_is_refused_and_leaves_nothing(tmp_path, tiny):
    edited = tiny.edit(mg.edit("layers.*.mlp", iv.scale(0.5)))
    with pytest.raises(SaveModelError, match=r"model.fold\(\).save") as caught:
        edited.save(tmp_path / "new")
    assert caught.traceback[-1].path.name == "test_saving.py"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(SaveModelError, match="is there already"):
        tiny.save(tmp_path / "full")
    adapted = mg.tiny()
    layer = adapted.module.layers[0].mlp
    layer.down_proj = LoRALinear.from_base(layer.down_proj)
    adapted.refresh()
    with pytest.raises(SaveModelError, match="Fuse the adapters"):
        adapted.save(tmp_path / "new")
    with pytest.raises(SaveModelError, match="save_pretrained"):
        mg.InterpretableModel(tiny.module, tokenizer=object()).save(tmp_path / "new")
    for model_type, said in (("gpt2", "models.gpt2.Model"), ("none_such", "nothing")):
        with pytest.raises(SaveModelError, match=said):
            tiny.save(tmp_path / "new", config={"model_type": model_type})
    chain = mg.InterpretableModel(nn.Sequential(nn.Linear(3, 3)), layer_attr="layers")
    with pytest.raises(SaveModelError, match="config="):
        chain.save(tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["full"]
    (tmp_path / "empty").mkdir()
    edited.fold().save(tmp_path / "empty")
    assert apart(mg.InterpretableModel(str(tmp_path / "empty"))(TEXT), edited(TEXT)) < 1e-5


def test_a_config_of_ones_own(tmp_path, tiny):
    config = {
        **json.loads((mg.tiny.__globals__["WEIGHTS"] / "config.json").read_text()),
        "by": "me",
    }
    mg.InterpretableModel(tiny.module, tiny.tokenizer).save(tmp_path / "new", config=config)
    assert json.loads((tmp_path / "new" / "config.json").read_text())["by"] == "me"
    assert mx.array_equal(mg.InterpretableModel(str(tmp_path / "new"))(TEXT), tiny(TEXT))


def test_a_copy_is_saved_as_the_model_is(tmp_path, tiny):
    twin = copy.deepcopy(tiny)
    twin.save(tmp_path / "twin")
    tiny.save(tmp_path / "own")
    one, other = ((tmp_path / name / "config.json").read_text() for name in ("twin", "own"))
    assert one == other
    assert json.loads(one)["eos_token_id"] == 1  # which the module's own args do not say
    assert mx.array_equal(mg.InterpretableModel(str(tmp_path / "twin"))(TEXT), tiny(TEXT))


def test_a_failure_leaves_no_folder(tmp_path, tiny, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(tiny.tokenizer), "save_pretrained", stopped, raising=False)
    with pytest.raises(KeyboardInterrupt):
        tiny.save(tmp_path / "new")
    assert not list(tmp_path.iterdir())
