"""What errors about the inside of a module say to write instead."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.errors import (
    InputError,
    MLXGraphError,
    NeverCalledError,
    ShapeError,
    UnknownSiteError,
)
from tests.inside.models import WIDTH, Stack

tiny = mg.tiny()
tokens = mx.array([[3, 1, 4, 1, 5]])


def said(kind, ask) -> str:
    with tiny.trace(tokens), pytest.raises(kind) as refused:
        ask()
    assert isinstance(refused.value, MLXGraphError)
    return str(refused.value)


def test_a_block_names_the_module_in_it_that_attends():
    text = said(UnknownSiteError, lambda: tiny.layers[2].pattern)
    assert "model.layers.2.self_attn.pattern" in text
    assert "in all" in said(UnknownSiteError, lambda: tiny.model.pattern)
    assert "A module in it" not in said(UnknownSiteError, lambda: tiny.layers[2].mlp.pattern)


def test_paths_are_written_as_they_are():
    text = said(UnknownSiteError, lambda: tiny.layers[2].mlp.values)
    assert "  model.layers.2.mlp computes no attention" in text


def test_a_value_that_is_nearly_right_is_suggested():
    assert "'pattern'" in said(UnknownSiteError, lambda: tiny.layers[2].attn.patern)
    assert "'ops'" in said(UnknownSiteError, lambda: tiny.layers[2].attn.op)


def test_an_operation_goes_in_brackets():
    text = said(UnknownSiteError, lambda: tiny.layers[2].mlp.ops.swiglu)
    assert "model.layers[2].mlp.ops['swiglu']" in text

    def write():
        tiny.layers[2].mlp.ops["swiglu"] = 0

    assert "ops['swiglu'].output = value" in said(InputError, write)


def test_a_skip_of_another_form_is_described_and_not_printed():
    stack = mg.InterpretableModel(Stack())
    x = mx.zeros((2, 5, WIDTH))
    with stack.trace(x), pytest.raises(ShapeError) as refused:
        stack.layers[0].ops["tanh"].skip((x, x))
    assert "tuple of (2, 5, 6) float32" in str(refused.value)


def test_a_value_of_a_kernel_that_is_skipped_says_so():
    kernel = "fast.scaled_dot_product_attention"
    with pytest.raises(NeverCalledError, match="which computes it, is skipped"):
        with tiny.trace(tokens):
            attn = tiny.layers[2].attn
            attn.ops[kernel].skip(mx.zeros((1, 8, 5, 16)))
            attn.pattern.save()
    with tiny.trace(tokens):
        attn = tiny.layers[2].attn
        attn.ops[kernel].skip(mx.zeros((1, 8, 5, 16)))
        output = attn.output.save()
    assert not bool(mx.any(output)) and output.shape == (1, 5, 128)
