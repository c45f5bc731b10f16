"""Every architecture of mlx-lm can be traced, edited and compiled, and is as it was afterwards.

The configurations are in `configs.py`; what an architecture does differently is in `parts.py`.
A few architectures run always, the others in the slow sweep.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

import mlxgraph as mg
from mlxgraph.analysis.unembed import token_scores
from mlxgraph.errors import CompileError, NeverCalledError, ShapeError
from tests.architectures import configs, parts

QUICK = ("llama", "gpt2", "mamba", "hunyuan")
KNOWN = configs.installed(configs.KNOWN.split())
NAMES = [name for name in KNOWN if name not in parts.NO_CALLS]
QUANTISED = ("llama", "qwen3", "gemma2", "mixtral", "deepseek_v3", "mamba", "gpt_oss", "lfm2")
TOKENS = [7, 21, 3, 88, 40, 5, 63, 12]


class Case:
    """One architecture: a model, its tokens, and what it gives without mlxgraph."""

    def __init__(self, name: str):
        self.name = name
        self.module = configs.build(name)
        self.tokens = mx.array([TOKENS])
        self.blocks = list(self.module.layers)[: parts.BLOCKS.get(name)]
        self.plain = self.module(self.tokens)
        mx.eval(self.plain)
        self.model = mg.InterpretableModel(self.module)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NAMES
    ],
)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@contextlib.contextmanager
def watched(modules: list[nn.Module]):
    """What each module returns first, and how often it is called, by hand: no mlxgraph in it."""
    seen: dict[int, Any] = {}
    calls: Counter[type] = Counter()
    kinds = {type(module): type(module).__call__ for module in modules}

    def watching(original: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls[type(self)] += 1
            value = original(self, *args, **kwargs)
            seen.setdefault(id(self), mx.array(first_array(value)))
            return value

        return call

    for kind, original in kinds.items():
        kind.__call__ = watching(original)
    try:
        yield seen, calls
    finally:
        for kind, original in kinds.items():
            kind.__call__ = original


def first_array(value: Any) -> Any:
    """The array itself, or the first of a module's several outputs."""
    while not isinstance(value, mx.array):
        value = value[0]
    return value


def push(value: Any) -> None:
    """An edit with a value that matters: another number added to each channel."""
    stream = first_array(value)
    stream += mx.linspace(-1.0, 2.0, stream.shape[-1])


def same(a: mx.array, b: mx.array) -> bool:
    return a.shape == b.shape and bool(mx.array_equal(a, b))


def close(a: mx.array, b: mx.array, tolerance: float) -> bool:
    return a.shape == b.shape and bool(mx.all(mx.abs(a - b) <= tolerance * (1 + mx.abs(b))))


def test_a_trace_sees_what_the_model_computes(case: Case):
    with watched(case.blocks) as (seen, _):
        case.module(case.tokens)
    with case.model.trace(case.tokens):
        kept = [first_array(layer.output).save() for layer in case.model.layers]
        output = case.model.output.save()
    assert same(output, case.plain)
    assert len(kept) == len(case.blocks)
    for block, value in zip(case.blocks, kept, strict=True):
        assert same(value, seen[id(block)])


def test_the_layers_are_the_models_own(case: Case):
    assert len(case.model.layers) == len(case.blocks)
    assert [layer.module for layer in case.model.layers] == case.blocks
    with case.model.trace(case.tokens) as t:
        pass
    listed = set(t.activations)
    assert {f"model.{layer.path}" for layer in case.model.layers} | {"__model_output__"} <= listed
    known = {f"model.{path}" for path, _ in case.model.named_modules()} | {"__model_output__"}
    assert listed <= known


def test_an_identity_edit_changes_nothing_and_a_real_one_does(case: Case):
    with case.model.trace(case.tokens, optimize=False):
        stream = first_array(case.model.layers[0].output)
        stream[:] = stream * 1.0
        unchanged = case.model.output.save()
    with case.model.trace(case.tokens):
        push(case.model.layers[0].output)
        changed = case.model.output.save()
    assert same(unchanged, case.plain)
    assert not close(changed, case.plain, 1e-4)


def test_compiled_equals_eager(case: Case):
    with case.model.trace(case.tokens, compile=False) as t:
        push(case.model.layers[1].output)
        case.model.output.save("logits")
    if case.name in parts.NOT_COMPILED:
        with pytest.raises(CompileError):
            case.model.compile(t.graph)(case.tokens)
        return
    fast = case.model.compile(t.graph)
    assert close(fast(case.tokens).saves["logits"], t.get("logits"), 1e-4)
    other = case.tokens[:, ::-1]
    with case.model.trace(other, compile=False):
        push(case.model.layers[1].output)
        logits = case.model.output.save()
    assert close(fast(other).saves["logits"], logits, 1e-4)
    assert not close(t.get("logits"), logits, 1e-2)


def test_attn_and_mlp_are_what_the_block_calls_them_and_can_be_zeroed(case: Case):
    for number, block in enumerate(case.blocks):
        for alias, called in zip(("attn", "mlp"), parts.of(case.name, number), strict=True):
            layer = case.model.layers[number]
            if called is None:
                assert not hasattr(layer, alias)
                continue
            part = getattr(layer, alias)
            assert part.module is block[called]
            if (case.name, alias) in parts.HOLDS:
                part = getattr(part, parts.HOLDS[case.name, alias])
            with watched([part.module]) as (seen, _):
                case.module(case.tokens)
            with case.model.trace(case.tokens):
                stream = first_array(part.output)
                before = stream.save()
                stream[:] = 0
                after = stream.save()
                output = case.model.output.save()
            assert same(before, seen[id(part.module)])
            assert same(after, mx.zeros_like(before))
            assert not same(output, case.plain)


def test_a_save_of_the_first_layer_does_not_run_the_later_ones(case: Case):
    if case.name in parts.NOT_COMPILED:
        return  # what branches on values has a new census in each trace, which runs everything
    with watched(case.blocks) as (_, calls):
        with case.model.trace(case.tokens):
            pass  # the census of the classes as they are watched, which runs everything once
        calls.clear()
        with case.model.trace(case.tokens, compile=False):
            first_array(case.model.layers[0].output).save()
    assert calls.total() == 1
    with watched(case.blocks) as (_, calls):
        with case.model.trace(case.tokens, compile=False):
            case.model.output.save()
    assert calls.total() >= len(case.blocks)


def test_a_padded_row_equals_its_single_run(case: Case):
    rows = [TOKENS, TOKENS[3:]]
    with case.model.trace(rows):
        output = case.model.output.save()
    with case.model.trace(rows):
        push(case.model.layers[0].output)
        edited = case.model.output.save()
    for number, row in enumerate(rows):
        single = case.module(mx.array([row]))[0]
        assert close(output[number, -len(row) :], single, 1e-5)
        with case.model.trace([row]):
            push(case.model.layers[0].output)
            alone = case.model.output[0].save()
        assert close(edited[number, -len(row) :], alone, 1e-5)


def test_rows_are_masked_where_the_model_can(case: Case):
    with case.model.trace([TOKENS, TOKENS[3:]]) as t:
        pass
    assert t._call.turned == (case.name in parts.TURNED)


def test_the_last_position_alone_equals_the_whole_outputs_last(case: Case):
    with case.model.trace(case.tokens):
        push(case.model.layers[0].output)
        last = case.model.output[:, -1].save()
    with case.model.trace(case.tokens, optimize=False):
        push(case.model.layers[0].output)
        whole = case.model.output.save()
    assert close(last, whole[:, -1], 1e-5)
    assert not close(last, whole[:, 0], 1e-2)


def test_the_last_layers_state_scored_by_the_lens_is_the_models_logits(
    case: Case, request: pytest.FixtureRequest
):
    if case.name in parts.CARRIED:
        reason = parts.CARRIED[case.name]
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    if case.name in parts.BLOCKS:
        assert len(case.module.layers) > len(case.model.layers)
        return  # the last of the container's layers is not the model's last
    with case.model.trace(case.tokens):
        state = first_array(case.model.layers[-1].output).save()
    if case.name in parts.NO_LENS:
        with pytest.raises(ShapeError):
            token_scores(case.model, state[0])
        return
    assert close(token_scores(case.model, state[0]), case.plain[0], 1e-5)
    lens = case.model.logit_lens(case.tokens, layers=[len(case.model.layers) - 1])
    best = [positions[0][0] for positions in lens[len(case.model.layers) - 1]]
    assert best == mx.argmax(case.plain[0], axis=-1).tolist()


def test_the_model_is_as_it_was(case: Case):
    module = configs.build(case.name)
    model = mg.InterpretableModel(module)
    arrays = dict(tree_flatten(module.parameters()))
    values = {name: mx.array(value) for name, value in arrays.items()}
    kinds = {path: type(part) for path, part in module.named_modules()}
    for compile in (False, "auto") if case.name in parts.NOT_COMPILED else (False, True):
        with model.trace(case.tokens, compile=compile):
            push(model.layers[0].output)
            output = model.output.save()
        assert not same(output, case.plain)
    with pytest.raises(ZeroDivisionError), model.trace(case.tokens):
        push(model.layers[0].output)
        raise ZeroDivisionError
    after = dict(tree_flatten(module.parameters()))
    assert {name: id(value) for name, value in after.items()} == {
        name: id(value) for name, value in arrays.items()
    }
    assert all(same(value, values[name]) for name, value in after.items())
    assert {path: type(part) for path, part in module.named_modules()} == kinds
    assert same(module(case.tokens), case.plain)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK[:1] else [pytest.mark.slow]) for n in QUANTISED],
)
@pytest.mark.parametrize("group_size", [32, 64])
def test_a_quantised_model_traces_and_compiles(name: str, group_size: int):
    module = configs.build(name)
    nn.quantize(
        module,
        group_size=group_size,
        bits=4,
        class_predicate=lambda _, part: (
            hasattr(part, "to_quantized") and part.weight.shape[-1] % group_size == 0
        ),
    )
    assert any("quantized" in type(part).__name__.lower() for part in module.modules())
    model, tokens = mg.InterpretableModel(module), mx.array([TOKENS])
    plain = module(tokens)
    for compile in (False, True):
        with model.trace(tokens, compile=compile):
            logits = model.output.save()
        with model.trace(tokens, compile=compile):
            push(model.layers[0].output)
            pushed = model.output.save()
        assert close(logits, plain, 0.0 if not compile else 1e-4)
        assert not close(pushed, plain, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", configs.installed(parts.NO_CALLS))
def test_layers_that_are_never_called_say_so_and_the_model_can_still_be_traced(name: str):
    module = configs.build(name)
    model, tokens = mg.InterpretableModel(module), mx.array([TOKENS])
    with pytest.raises(NeverCalledError, match="never calls it"), model.trace(tokens):
        model.layers[0].output.save()
    with model.trace(tokens):
        logits = model.output.save()
    with model.trace(tokens):
        push(model.layers[0].mlp.output)
        pushed = model.output.save()
    assert same(logits, module(tokens))
    assert not close(pushed, logits, 1e-4)


@pytest.mark.parametrize("name", configs.installed(configs.NOT_HERE))
def test_the_reasons_why_a_model_cannot_run_here_still_hold(name: str):
    error, message = configs.NOT_HERE[name]
    with pytest.raises(error, match=message):
        mx.eval(configs.build(name)(mx.array([TOKENS])))
