"""What of mlxgraph works on an architecture, as it is seen: the rows of `docs/models.md`.

In: a model file's name.  Out: a `Row`: the names that were found, and a `State` of each capability.
Never: takes a wrong number for a state.  A capability works, works with a remark, or refuses with
an error of ours; anything else is raised.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx_lm import models
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache

import mlxgraph as mg
from mlxgraph.analysis.unembed import final_norm
from mlxgraph.errors import MLXGraphError, NeverCalledError
from tests.architectures import configs, parts

TOKENS = [7, 21, 3, 88, 40, 5, 63, 12]
NEW = 4  # tokens to generate
WORKS, BUT, REFUSES = "works", "works, but", "refuses, because"
NONE = "-"


class State(NamedTuple):
    """`works`; `works, but` with a remark; `refuses, because` with the error's reason."""

    word: str = WORKS
    remark: str = ""


class Row(NamedTuple):
    """One architecture: the names that were found, and the states by capability."""

    name: str
    names: dict[str, str]
    states: dict[str, State]


class Wrong(AssertionError):
    """A number that is not what it should be: no state, and no page."""


class Case:
    """An architecture's model, and what it gives without mlxgraph."""

    def __init__(self, name: str):
        self.name = name
        self.module = configs.build(name)
        self.tokens = mx.array([TOKENS])
        self.plain = first_array(self.module(self.tokens))
        mx.eval(self.plain)
        self.model = mg.InterpretableModel(self.module)

    def edited(self, tokens: Any, **options: Any) -> mx.array:
        """The logits under an edit with a value that matters."""
        with self.model.trace(tokens, **options):
            push(entry(self.model))
            logits = first_array(self.model.output).save()
        return logits


def first_array(value: Any) -> Any:
    while not isinstance(value, mx.array):
        value = value[0]
    return value


def entry(model: Any) -> Any:
    """The first layer's stream; its feed-forward part where the layer itself is never called."""
    layer = model.layers[0]
    try:
        return first_array(layer.output)
    except NeverCalledError:
        return first_array(layer.mlp.output)


def push(stream: Any) -> None:
    stream += mx.linspace(-1.0, 2.0, stream.shape[-1])


def check(true: bool, what: str) -> None:
    if not true:
        raise Wrong(what)


def same(a: mx.array, b: mx.array) -> bool:
    return a.shape == b.shape and bool(mx.array_equal(a, b))


def close(a: mx.array, b: mx.array, tolerance: float) -> bool:
    return a.shape == b.shape and bool(mx.all(mx.abs(a - b) <= tolerance * (1 + mx.abs(b))))


# -- the names ------------------------------------------------------------------------------------


def names_of(case: Case) -> dict[str, str]:
    """Where layers, their parts, the embedding, the final norm and the head were found."""
    model = case.model
    with model.trace(case.tokens) as t:
        pass
    listed = [name for name in t.activations if name != "__model_output__"]
    kinds = {name: type(model[name].module).__name__.lower() for name in listed}
    embedding = next((name for name in listed if "embedding" in kinds[name]), None)
    layers = model.layers
    return {
        "layers": f"{layers.path} ({len(layers)})",
        "attn": _parts(layers, "attn"),
        "mlp": _parts(layers, "mlp"),
        "embedding": NONE if embedding is None else model[embedding].path,
        "norm": final_norm(model) or NONE,
        "head": _head(case, listed),
    }


def _parts(layers: Any, alias: str) -> str:
    found = []
    for layer in layers:
        part = getattr(layer, alias, None)
        found.append(NONE if part is None else part.path.removeprefix(f"{layer.path}."))
    return " / ".join(dict.fromkeys(found))


def _head(case: Case, listed: list[str]) -> str:
    """The module that gives the logits; where none does, the embedding's matrix is the head."""
    with case.model.trace(case.tokens):
        shapes = {}
        for name in listed:
            value = case.model[name].output
            shapes[name] = value.shape if isinstance(value, mx.array) else None
    single = [n for n in listed if len(case.model[n].module.modules()) == 1]
    heads = [n for n in single if shapes[n] == case.plain.shape and "norm" not in n]
    return case.model[heads[-1]].path if heads else "tied"


# -- the capabilities -----------------------------------------------------------------------------


def identity(case: Case) -> State:
    """An edit that writes back what it reads changes nothing, bit for bit."""
    with case.model.trace(case.tokens, optimize=False):
        stream = entry(case.model)
        stream[:] = stream * 1.0
        unchanged = first_array(case.model.output).save()
    check(same(unchanged, case.plain), "an identity edit changes the output")
    return State()


def edit(case: Case) -> State:
    """An edit with a value that matters changes the output, and the model is as it was."""
    check(not close(case.edited(case.tokens), case.plain, 1e-4), "an edit changes nothing")
    check(same(first_array(case.module(case.tokens)), case.plain), "the model is not as it was")
    return State()


def compiled(case: Case) -> State:
    """A compiled pass gives what the eager one gives."""
    eager = case.edited(case.tokens, compile=False)
    check(close(case.edited(case.tokens, compile=True), eager, 1e-4), "compiled is not eager")
    return State()


def padded(case: Case) -> State:
    """Each row of a batch of two lengths equals its single run, edited too."""
    rows = [TOKENS, TOKENS[3:]]
    with case.model.trace(rows):
        output = first_array(case.model.output).save()
    edited = case.edited(rows)
    for number, row in enumerate(rows):
        alone = first_array(case.module(mx.array([row])))[0]
        check(close(output[number, -len(row) :], alone, 1e-5), "a padded row is another")
        alone = case.edited([row])[0]
        check(close(edited[number, -len(row) :], alone, 1e-5), "an edited padded row is another")
    return State(BUT, TURNED) if case.name in parts.TURNED else State()


TURNED = "it cannot mask: rows are padded on the right, and shown as if on the left"


def attention(case: Case) -> State:
    """What attentions compute inside is read, obeys its laws, and is edited."""
    names = ("pattern", "values", "heads")
    with case.model.trace(case.tokens, optimize=False) as t:
        try:
            found = t.cache(*(f"**.{name}" for name in names))
        except NeverCalledError:
            return State(REFUSES, "it has no attention")
        output = first_array(case.model.output).save()
    check(same(output, case.plain), "looking inside attentions changes the output")
    modules = [name.removesuffix(".pattern") for name in found if name.endswith(".pattern")]
    for module in modules:
        pattern, values, heads = (found[f"{module}.{name}"] for name in names)
        rows = pattern.sum(axis=-1)
        check(bool(mx.all((rows > 0) & (rows < 1 + 1e-5))), "a row of a pattern is none")
        later = mx.triu(mx.ones(pattern.shape[-2:]), 1)
        if pattern.shape[-1] == len(TOKENS):
            check(not bool(mx.any(pattern * later)), "a pattern looks ahead")
        values = mx.repeat(values, heads.shape[1] // values.shape[1], axis=1)
        check(close(pattern @ values, heads, 1e-5), "pattern @ values are not heads")
    with case.model.trace(case.tokens):
        part = case.model[f"{modules[0]}.pattern"].output
        part[:, 0] = part[:, 0, :, ::-1]
        edited = first_array(case.model.output).save()
    check(not close(edited, case.plain, 1e-6), "an edit of a pattern changes nothing")
    return State()


def resid_mid(case: Case) -> State:
    """The stream between the parts of layers: written back it changes nothing, doubled it does."""
    stream = case.model.residual_stream()
    layers = [layer.path for layer in stream if layer.middle]
    if not layers:
        return State(REFUSES, stream[-1].reason)
    outputs = []
    for factor in (1.0, 2.0):
        with case.model.trace(case.tokens, optimize=False):
            for path in layers:
                case.model[f"{path}.resid_mid"].output *= factor
            outputs.append(first_array(case.model.output).save())
    check(same(outputs[0], case.plain), "an identity edit of resid_mid changes the output")
    check(not close(outputs[1], case.plain, 1e-4), "an edit of resid_mid changes nothing")
    return State() if len(layers) == len(stream) else State(BUT, "not in every layer")


def generation(case: Case) -> State:
    """Each new token is mlx-lm's own, and under an edit that of the whole text traced again."""
    with case.model.generate(TOKENS, max_tokens=NEW) as t:
        pass
    own = generate_step(mx.array(TOKENS), case.module, max_tokens=NEW)
    check(t.tokens == [int(token) for token, _ in own][:NEW], "a token is not mlx-lm's own")
    with case.model.generate(TOKENS, max_tokens=NEW) as t:
        push(entry(case.model))
        logits = case.model.output.save()
    steps = [first_array(logits[number])[0, -1] for number in range(NEW)]
    check([int(mx.argmax(step)) for step in steps] == t.tokens, "a token is not the likeliest")
    check(not close(steps[0], case.plain[0, -1], 1e-4), "an edit changes nothing")
    as_one = close(_cached(case), case.plain[0, -1], 1e-4)
    text = [*TOKENS]
    for step, token in zip(steps, t.tokens, strict=True):
        whole = case.edited(mx.array([text]))[0, -1]
        check(not as_one or close(step, whole, 1e-4), "an edited step is another")
        text.append(token)
    return State() if as_one else State(BUT, OTHERWISE)


OTHERWISE = "the bare model itself gives other numbers with a cache than without"


def _cached(case: Case) -> mx.array:
    """The bare model's logits of the last token, the others in a cache."""
    cache = make_prompt_cache(case.module)
    case.module(mx.array([TOKENS[:-1]]), cache=cache)
    return first_array(case.module(mx.array([TOKENS[-1:]]), cache=cache))[0, -1]


def four_bit(case: Case) -> State:
    """A 4-bit copy traces, edits and compiles."""
    copy = Case.__new__(Case)
    copy.name, copy.tokens, copy.module = case.name, case.tokens, configs.build(case.name)
    try:
        nn.quantize(copy.module, group_size=32, bits=4, class_predicate=_fits)
        copy.plain = first_array(copy.module(copy.tokens))
    except (TypeError, ValueError) as error:  # without mlxgraph
        return State(REFUSES, f"the bare 4-bit model fails: {str(error).split('(')[0]}")
    copy.model = mg.InterpretableModel(copy.module)
    check(not same(copy.plain, case.plain), "the copy is not quantised")
    identity(copy)
    edit(copy)
    if case.name not in parts.NOT_COMPILED:
        compiled(copy)
    return State()


def _fits(_: str, part: Any) -> bool:
    return hasattr(part, "to_quantized") and part.weight.shape[-1] % 32 == 0


CAPABILITIES: dict[str, Callable[[Case], State]] = {
    "identity": identity,
    "edit": edit,
    "compiled": compiled,
    "padded": padded,
    "attention": attention,
    "resid_mid": resid_mid,
    "generation": generation,
    "4-bit": four_bit,
}


def state(case: Case, capability: Callable[[Case], State]) -> State:
    """What a capability says of an architecture; an error of ours is a refusal."""
    try:
        return capability(case)
    except Wrong as wrong:
        raise Wrong(f"{case.name}, {capability.__name__}: {wrong}") from wrong
    except MLXGraphError as error:
        said = re.sub(r"\b[\w.]+\.(?=\d+\.output\b)", "layers.", str(error).split("\n")[0])
        return State(REFUSES, said.rstrip("."))


def row(name: str) -> Row:
    """One architecture, looked at."""
    case = Case(name)
    return Row(name, names_of(case), {k: state(case, one) for k, one in CAPABILITIES.items()})


def architectures() -> list[str]:
    """Every model file of the installed mlx-lm: those that define a `Model`."""
    found = []
    for entry in pkgutil.iter_modules(models.__path__):
        if entry.name in configs.NOT_HERE or entry.name in configs.KNOWN.split():
            found.append(entry.name)
            continue
        if hasattr(importlib.import_module(f"mlx_lm.models.{entry.name}"), "Model"):
            found.append(entry.name)
    return found
