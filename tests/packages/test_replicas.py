"""Outputs of other packages as they define them, where the packages are not installed.

A language model of a vision-language package, by hand: features in a dataclass go into it, and its
output is a dataclass of which most is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from tests import models

TOKENS = mx.array([[1, 7, 3, 9, 4, 2]])
PIXELS = mx.arange(12, dtype=mx.float32).reshape(1, 2, 6) / 12


@dataclass
class LanguageModelOutput:
    logits: mx.array
    hidden_states: list[mx.array] | None = None
    cross_attention_states: list[mx.array] | None = None
    encoder_outputs: list[mx.array] | None = None
    shared_kv_states: dict[str, tuple] | None = None


@dataclass
class InputEmbeddingsFeatures:
    inputs_embeds: mx.array
    attention_mask_4d: mx.array | None = None
    deepstack_visual_embeds: Any = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "inputs_embeds": self.inputs_embeds,
            **{k: v for k, v in self.__dict__.items() if v is not None and k != "inputs_embeds"},
        }


@dataclass
class BaseModelOutput:
    last_hidden_state: mx.array | None = None
    pooler_output: mx.array | None = None
    text_embeds: mx.array | None = None
    hidden_states: list[mx.array] | None = None


class Vision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(6, models.WIDTH)

    def __call__(self, pixels: mx.array) -> BaseModelOutput:
        h = self.patch(pixels)
        return BaseModelOutput(last_hidden_state=h, pooler_output=h.mean(1), hidden_states=[h, -h])


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = models.make_llama()

    def __call__(self, inputs_embeds: mx.array, **kwargs: Any) -> LanguageModelOutput:
        stream = self.inner.model
        h = inputs_embeds
        states = [h]
        for layer in stream.layers:
            h = layer(h, "causal")
            states.append(h)
        logits = stream.embed_tokens.as_linear(stream.norm(h))
        return LanguageModelOutput(logits, hidden_states=states, shared_kv_states={"full": (h, h)})


class Assistant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vision_tower, self.language_model = Vision(), Language()

    @property
    def layers(self) -> Any:
        return self.language_model.inner.model.layers

    def features(self, tokens: mx.array, pixels: mx.array) -> InputEmbeddingsFeatures:
        image = self.vision_tower(pixels).last_hidden_state
        text = self.language_model.inner.model.embed_tokens(tokens)
        return InputEmbeddingsFeatures(mx.concatenate([image, text], axis=1))

    def __call__(self, tokens: mx.array, pixel_values: mx.array) -> LanguageModelOutput:
        return self.language_model(**self.features(tokens, pixel_values).to_dict())


@pytest.fixture(scope="module")
def model() -> mg.InterpretableModel:
    return models.made(Assistant)


@pytest.mark.parametrize("compile", [False, True, "auto"])
def test_an_assistant_is_read_and_edited_from_end_to_end(model, compile):
    module = model.module
    truth = module(TOKENS, PIXELS)
    for _ in range(3):
        with model.trace(TOKENS, pixel_values=PIXELS, compile=compile) as t:
            image = model.vision_tower.output.last_hidden_state.save()
            states = [state.save() for state in model.output.hidden_states]
            logits = model.output.logits[:, -1].save()
            shared = model.output.shared_kv_states["full"][1].save()
            assert model.output.encoder_outputs is None
        assert models.same(image, module.vision_tower.patch(PIXELS), 1e-5)
        assert models.same(logits, truth.logits[:, -1], 1e-4)
        assert all(map(lambda a, b: models.same(a, b, 1e-4), states, truth.hidden_states))
        assert models.same(shared, truth.shared_kv_states["full"][1], 1e-4)
        assert type(t.output) is LanguageModelOutput and t.output.encoder_outputs is None
    blank = module.language_model(
        mx.concatenate([mx.zeros((1, 2, models.WIDTH)), states[0][:, 2:]], 1)
    )
    for _ in range(3):
        with model.trace(TOKENS, pixel_values=PIXELS, compile=compile):
            model.vision_tower.output.last_hidden_state *= 0
            logits = model.output.logits.save()
        assert models.same(logits, blank.logits, 1e-4)
        assert not models.same(logits, truth.logits, 1e-2)


def test_an_edit_of_it_stays_and_travels(model, tmp_path):
    with model.trace(TOKENS, PIXELS) as t:
        model.layers[1].output *= 0.5
        model.output.logits[:, 0] = 0
        model.output.hidden_states[0] += 1
    t.graph.save(tmp_path / "edit.mlxg")
    edited = model.edit(mg.Graph.load(tmp_path / "edit.mlxg"))
    for _ in range(3):
        found = edited(TOKENS, PIXELS)
        assert type(found) is LanguageModelOutput and not found.logits[:, 0].any()
        assert models.same(found.logits, t.output.logits, 1e-4)
        assert models.same(found.hidden_states[0], t.output.hidden_states[0], 1e-4)
    plain = model(TOKENS, PIXELS)
    assert plain.logits[:, 0].any()
