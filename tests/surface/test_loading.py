"""What `mlx_lm.load` takes is passed on to it: adapters, revisions, the tokenizer's settings."""

from __future__ import annotations

import json
import traceback
from io import StringIO

import mlx.core as mx
import mlx_lm
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

import mlxgraph as mg
from mlxgraph.errors import LoadOptionError, ModelLoadError
from mlxgraph.tiny import WEIGHTS
from tests.models import same

TEXT = "The capital of France is"
SETTINGS = {"rank": 4, "scale": 10.0, "dropout": 0.0}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A folder with trained adapters, as mlx-lm's `lora` writes it."""
    folder = tmp_path_factory.mktemp("adapters")
    module = mg.tiny().module
    linear_to_lora_layers(module, 2, SETTINGS)
    mx.random.seed(3)
    weights = {
        name: 0.1 * mx.random.normal(value.shape)
        for name, value in tree_flatten(module.parameters())
        if name.endswith(("lora_a", "lora_b"))
    }
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": SETTINGS}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("as_text", [True, False])
def test_adapters_are_those_of_mlx_lm(adapters, as_text):
    path = str(adapters) if as_text else adapters
    model = mg.InterpretableModel(WEIGHTS, adapter_path=path)
    expected, tokenizer = mlx_lm.load(str(WEIGHTS), adapter_path=str(adapters))
    ids = mx.array([tokenizer.encode(TEXT)])
    with model.trace(TEXT):
        logits = model.output.save()
    assert same(logits, expected(ids))
    assert not same(logits, mg.tiny()(ids), 1e-2), "the adapters do something"
    plain = mg.tiny().weight("layers.5.attn.q_proj")
    assert mx.abs(model.weight("layers.5.attn.q_proj") - plain).max().item() > 0.1


def test_settings_of_the_tokenizer():
    model = mg.InterpretableModel(
        str(WEIGHTS), tokenizer_config={"bos_token": "<|pad|>"}, lazy=True
    )
    assert model.tokenizer.bos_token == "<|pad|>" != mg.tiny().tokenizer.bos_token


def test_every_option_of_the_installed_mlx_lm_is_passed_on(monkeypatch):
    given, module = {}, mg.tiny().module

    def load(path, revision=None, adapter_path=None, a_new_one=None, return_config=False):
        given.update(revision=revision, a_new_one=a_new_one, adapter_path=adapter_path)
        return module, None

    monkeypatch.setattr(mlx_lm, "load", load)
    monkeypatch.setenv("HOME", "/home/somebody")
    mg.InterpretableModel(WEIGHTS, revision="a1b2", adapter_path="~/a", a_new_one=5)
    assert given == {"revision": "a1b2", "a_new_one": 5, "adapter_path": "/home/somebody/a"}


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        (WEIGHTS, {"adaptor_path": "x"}, "Did you mean 'adapter_path'"),
        (WEIGHTS, {"tokeniser": 5}, "Did you mean 'tokenizer'"),
        (WEIGHTS, {"return_config": True}, "takes no return_config="),
        ("/no/such/folder", {"adaptor_path": "x"}, "Did you mean 'adapter_path'"),
        (None, {"adapter_path": "x"}, "loaded already takes no adapter_path="),
        (None, {"tokeniser": 5}, "Did you mean 'tokenizer'"),
    ],
)
def test_an_option_that_is_none_is_refused(path, options, said):
    model = mg.tiny().module if path is None else path
    with pytest.raises(LoadOptionError, match=said) as caught:
        mg.InterpretableModel(model, **options)
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__
    assert isinstance(caught.value, TypeError)


def test_adapters_that_are_not_there():
    with pytest.raises(ModelLoadError, match="adapter path does not exist"):
        mg.InterpretableModel(WEIGHTS, adapter_path="/no/such/folder")


def test_the_draws_of_weights_that_are_then_read_are_not_waited_for():
    """mlx-lm makes a model of random weights before it reads those of the file: nobody looks at the
    draws, and each would keep a split in the random state."""
    mx.random.seed(0)
    before = mx.random.state[0].tolist()
    mg.tiny()
    mx.export_to_dot(drawing := StringIO(), mx.random.state[0])
    assert "Split" not in drawing.getvalue()
    assert mx.random.state[0].tolist() != before, "there were draws"
