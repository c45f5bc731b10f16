"""Head detectors: heads built by hand are found, with the scores that they have."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import (
    InputError,
    NeverCalledError,
    NoLayerError,
    UnknownNameError,
    UnknownSiteError,
)
from tests.analysis.test_patching_maps import MODELS, SOME, made

VOCABULARY, LONGEST = 24, 40
SHARP = 60.0  # a score that leaves nothing to the other keys


class Attention(nn.Module):
    """Heads with weights of their own: each a matrix for queries, keys, values, and one out."""

    def __init__(self, heads: list[tuple[mx.array, mx.array, mx.array]]):
        super().__init__()
        self.q, self.k = mx.stack([h[0] for h in heads]), mx.stack([h[1] for h in heads])
        self.out = mx.stack([h[2] for h in heads])

    def __call__(self, x: mx.array) -> mx.array:
        queries, keys = x[:, None] @ self.q, x[:, None] @ self.k
        values = x[:, None] @ self.out
        z = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=1.0, mask="causal")
        return z.sum(axis=1)


class Layer(nn.Module):
    def __init__(self, heads: Any):
        super().__init__()
        self.self_attn = Attention(heads)

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.self_attn(x)


class Built(nn.Module):
    """An induction pair.  The stream is: which token, which position, which token came before.

    Layer 0: head 0 looks at the token before and writes down which it is; head 1 looks anywhere.
    Layer 1: head 0 looks for a token that came after the one it is at (induction); head 1 for one
    that is the one it is at, itself among them (duplicate token); head 2 at the first of the text.
    """

    def __init__(self) -> None:
        super().__init__()
        v, t = VOCABULARY, LONGEST
        width = v + t + v

        def part(start: int, size: int, at: int = 0) -> mx.array:
            """A matrix that reads one part of the stream into a place of its own."""
            wide = np.zeros((width, width), dtype=np.float32)
            wide[start : start + size, at : at + size] = np.eye(size)
            return mx.array(wide)

        token, position, before = part(0, v), part(v, t), part(v + t, v)
        shifted = np.zeros((width, width), dtype=np.float32)
        for p in range(1, t):
            shifted[v + p, p - 1] = 1.0
        first = np.zeros((width, width), dtype=np.float32)
        first[v : v + t, 0] = 1.0
        nothing = mx.zeros((width, width))
        self.embed = nn.Embedding(v, width)
        self.embed.weight = mx.concatenate([mx.eye(v), mx.zeros((v, t + v))], axis=1)
        self.positions = mx.concatenate([mx.zeros((t, v)), mx.eye(t), mx.zeros((t, v))], axis=1)
        self.layers = [
            Layer([
                (SHARP * mx.array(shifted), position, part(0, v, at=v + t)),
                (nothing, nothing, nothing),
                (nothing, nothing, nothing),
            ]),
            Layer([
                (SHARP * token, before, nothing),
                (SHARP * token, token, nothing),
                (SHARP * mx.array(first), position, nothing),
            ]),
        ]  # fmt: skip
        self.v = v

    def __call__(self, tokens: mx.array) -> mx.array:
        x = self.embed(tokens) + self.positions[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return x[..., : self.v]


ALL = ("induction", "previous token", "duplicate token", "first token")


def test_heads_built_by_hand_score_what_they_do():
    model = mg.InterpretableModel(Built())
    length = 12
    found = model.head_scores(ALL, length=length, samples=5)
    assert found.axes == {"kind": ALL, "layer": (0, 1), "head": (0, 1, 2)}
    scores = {kind: np.asarray(found.sel(kind=kind).values) for kind in ALL}
    assert scores["previous token"][0, 0] == pytest.approx(1, abs=1e-4)
    # the first token of the text has none before it and writes down itself: half of one query's
    induction = pytest.approx((length - 0.5) / length, abs=1e-4)
    assert scores["induction"][1, 0] == induction
    assert scores["duplicate token"][1, 1] == pytest.approx(0.5, abs=1e-4), "itself is the other"
    assert scores["first token"][1, 2] == pytest.approx(1, abs=1e-4)
    for kind, place in zip(ALL, [(1, 0), (0, 0), (1, 1), (1, 2)], strict=True):
        others = scores[kind].copy()
        others[place] = 0
        assert others.max() < 0.3, kind
    # what looks everywhere alike, by the arithmetic of it
    anywhere = np.mean([1 / (query + 1) for query in range(length, 2 * length)])
    assert scores["induction"][0, 1] == pytest.approx(anywhere, abs=1e-5)
    assert found.sel(kind="induction").argmax() == {"layer": 1, "head": 0}


def by_hand(model: Any, texts: np.ndarray, start: int, length: int) -> dict[str, np.ndarray]:
    """Scores of texts by loops over patterns."""
    with model.trace(mx.array(texts)):
        kept = [layer.attn.pattern.save() for layer in model.layers]
    patterns = np.stack([np.array(p.astype(mx.float32)) for p in kept], axis=1)
    end = start + 2 * length
    found: dict[str, list] = {kind: [] for kind in ALL}
    for query in range(start + 1, end):
        found["previous token"].append(patterns[..., query, query - 1])
        found["first token"].append(patterns[..., query, 0])
        if query >= start + length:
            for kind, key in (
                ("duplicate token", query - length),
                ("induction", query - length + 1),
            ):
                for row in texts:
                    assert row[key - (kind == "induction")] == row[query]
                found[kind].append(patterns[..., query, key])
    return {kind: np.mean(some, axis=(0, 1)) for kind, some in found.items()}


@pytest.mark.parametrize("name", SOME)
@pytest.mark.thin(3)
def test_scores_are_means_of_the_patterns(name, monkeypatch):
    from mlxgraph.analysis import head_scores

    texts = []
    some = head_scores._some

    def kept(rows: mx.array) -> Any:
        texts.append(np.array(rows))
        return some(rows)

    monkeypatch.setattr(head_scores, "_some", kept)
    model = MODELS[name]()
    found = model.head_scores(ALL, length=5, samples=6, seed=3)
    start = texts[0].shape[1] - 10
    assert start == (1 if model.tokenizer is not None else 0)
    expected = by_hand(model, texts[0], start, 5)
    for kind in ALL:
        gap = np.abs(np.asarray(found.sel(kind=kind).values) - expected[kind])
        assert gap.max() < 2e-5, kind
        assert expected[kind].max() > 0.01


def test_the_embedded_model_has_an_induction_pair():
    model = mg.tiny()
    found = model.head_scores(length=8)
    assert found.shape == (3, 6, 8)
    previous, induction = found.sel(kind="previous token"), found.sel(kind="induction")
    assert previous.argmax()["layer"] < induction.argmax()["layer"]
    assert previous.max() > 0.9 and induction.max() > 0.9
    one = model.head_scores("induction", layers=[3], length=8)
    assert one.dims == ("layer", "head")
    assert np.allclose(one.values, induction.sel(layer=[3]).values, atol=1e-5)
    assert model.head_scores(length=8, seed=1) != found, "the control: other texts"
    assert model.head_scores(length=8) == found


def test_the_pair_is_joined_by_the_keys():
    """What the previous-token heads write is read by the induction heads' keys alone."""
    a, b, c, d, e, f = 100, 300, 500, 700, 200, 900
    clean, corrupted = [0, a, b, c, d, e, f, a, b, c], [0, a, b, e, d, c, f, a, b, c]
    found = mg.tiny().path_patching(
        clean,
        corrupted,
        "layers.2.attn",
        [f"layers.3.attn.{name}" for name in ("queries", "keys", "values")],
        metric="logit_diff",
        targets=(d, f),
    )
    queries, keys, values = np.asarray(found.values)
    assert keys > 90 and abs(queries) < 5 and abs(values) < 5


def test_no_special_token_is_in_the_texts():
    model = mg.tiny()
    from mlxgraph.analysis.head_scores import _vocabulary

    ids = set(_vocabulary(model).tolist())
    assert len(ids) == 1014 - 3 and not ids & set(model.tokenizer.all_special_ids)


def test_a_hybrid_gives_its_attentions_and_a_model_without_any_says_so():
    found = made("qwen3_next").head_scores("previous token", length=4, samples=1)
    assert found.shape[0] < len(made("qwen3_next").layers)
    with pytest.raises((UnknownSiteError, NeverCalledError)):
        made("mamba").head_scores()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"kinds": "inductive"}, UnknownNameError, "induction"),
        ({"kinds": []}, InputError, "no kinds"),
        ({"kinds": 3}, InputError, "no kinds"),
        ({"layers": [9]}, NoLayerError, "9"),
        ({"length": 1}, InputError, "length=2"),
        ({"length": 2000}, InputError, "vocabulary"),
        ({"length": 4.5}, InputError, "whole number"),
        ({"samples": 0}, InputError, "samples=1"),
        ({"seed": -1}, InputError, "seed"),
    ],
)
def test_what_is_wrong_is_said_on_the_users_line(arguments, error, says):
    with pytest.raises(error, match=says) as caught:
        mg.tiny().head_scores(**arguments)
    assert caught.traceback[-1].path.name == "test_head_scores.py"
