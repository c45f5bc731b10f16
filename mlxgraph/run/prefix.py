"""What a forward on a text has in its layers' caches: where other forwards may begin.

Edits at late positions leave the positions before as they are in a causal model.  A forward on the
rest of the text, with the keys and values of one run on the whole of it, gives then what a forward
on the whole text would.

In: a runner, a call of token ids.  Out: a `Prefix` with that run's output, or why there is none.
Never: takes a model's word for it: its own numbers decide, once for a model and a length.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import mlx.core as mx

from mlxgraph.errors import MLXGraphError
from mlxgraph.graph.census import Census
from mlxgraph.graph.nested import leaves
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.arrays import same_data
from mlxgraph.mlx_facts.kept_cache import (
    NoKeptForm,
    each,
    first_positions,
    holding_caches,
    watching_caches,
)
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import says_followed
from mlxgraph.run.call import Call, call_model, describe_call
from mlxgraph.run.padded import NOISE
from mlxgraph.run.pushdown import WHOLE, stream_entry
from mlxgraph.run.runner import Runner
from mlxgraph.run.standin import StandIn
from mlxgraph.run.turned import SURE

EXACT = 64  # tokens up to which every length is tried by itself; above, the first in each doubling
ROWS = 3  # of one trial
LATE = 2  # last tokens in which those differ
LARGE = 2**22  # numbers in their logits, 16 MiB in float32, above which few of them are made


class Prefix:
    """Keys and values of every layer, of a whole text.

    Attributes:
        tokens: the ids, (rows, length).
        output: what the model returned for them, lazy; None where it is not kept.
        streams: what some modules gave, by path.
    """

    __slots__ = ("tokens", "output", "streams", "_watched")

    def __init__(
        self,
        tokens: mx.array,
        output: Any,
        watched: list[Any],
        streams: Mapping[str, mx.array] = MappingProxyType({}),
    ):
        self.tokens = tokens
        self.output = output
        self.streams = streams
        self._watched = watched

    @property
    def length(self) -> int:
        """The number of tokens."""
        return self.tokens.shape[1]

    @property
    def rows(self) -> int:
        """The number of texts."""
        return self.tokens.shape[0]

    @property
    def arrays(self) -> list[mx.array]:
        """Every layer's keys and values, lazy until they are asked for; and the streams."""
        pairs = [(cache.keys, cache.values) for cache in each(self._watched)]
        kept = [array for pair in pairs for array in pair if array is not None]
        return [*kept, *self.streams.values()]

    @property
    def nbytes(self) -> int:
        """What they take."""
        return sum(array.nbytes for array in self.arrays)

    def computed(self, tokens: mx.array) -> Prefix:
        """The same, evaluated, without the output: what may be kept for long.

        Args: tokens: the same ids, in an array that nobody else has.
        """
        mx.eval(self.arrays)
        return Prefix(tokens, None, self._watched, self.streams)

    def caches(self, start: int) -> list[Any]:
        """What to give as `cache=` to a forward on `tokens[:, start:]`, or on rows that are copies
        of these with other values from `start` on: all rows once, and then all of them again.

        They hold the same after a forward as before.  The number of rows may differ from layer to
        layer.
        """
        self._check(start)
        return first_positions(self._watched, start)

    def call(self, start: int) -> Call:
        """The forward on `tokens[:, start:]`, as a call of nothing but arrays: it can be compiled.

        What is held is among its inputs.
        """
        self._check(start)
        tokens = self.tokens[:, start:]
        pairs = [(cache.keys, cache.values) for cache in each(self._watched)]
        held = tuple([None if a is None else a[:, :, :start] for pair in pairs for a in pair])
        lengths = [self.length - start] * self.rows
        return describe_call(
            (tokens, held), {}, forward=rest_forward, tokens=tokens, lengths=lengths
        )

    def _check(self, start: int) -> None:
        if not 0 < start < self.length:
            raise ValueError(f"a forward cannot begin at token {start} of {self.length}")


def rest_forward(model: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run `model(tokens)` behind a beginning that is held.

    Args: args: `(tokens, held)`: (rows, length), and every layer's keys and values.
    """
    tokens, held = args
    return model(tokens, cache=holding_caches(model, held), **kwargs)


def prefix_of(runner: Runner, call: Call, keep: Sequence[str] = ()) -> Prefix | str:
    """The unedited run of a call, to begin others from, lazy; or why there is none.

    Args: keep: modules that are called once and give one array, which is kept too.
    """
    reason = why_no_prefix(runner, call)
    if reason:
        return reason
    tokens = call.args[0]
    watched = watching_caches(runner.root)
    streams: dict[str, mx.array] = {}

    def note(path: str, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        value = original(*args, **kwargs)
        streams[path] = same_data(value)
        return value

    with runner.tree.beyond.as_it_was():
        output = StandIn(runner.tree, keep, note).root(tokens, cache=watched)
    return Prefix(tokens, output, watched, streams)


def why_no_prefix(runner: Runner, call: Call) -> str:
    """Why runs of a call cannot begin at a later token; nothing where they can.

    A model is tried once for each length (long ones: for each doubling), and again once weights
    have changed (those of 0 look neither back nor ahead): a few forwards.  The tree is taken to be
    as it was at the last `refresh`.
    """
    known = known_reason(runner, call)
    if known is None:
        length, seen = call.args[0].shape[1], runner.tree.seen_now()
        try:
            known = _tried(runner, call, length)
        except Exception as error:
            if says_followed(error):
                return "nothing can be computed here"  # the next call outside asks again
            if isinstance(error, MLXGraphError):
                raise
            known = f"the model does not run on a part of a text: {_first_line(error)}"
        runner.prefixes.put(_key(runner, call), (known, seen))
    return known


def known_reason(runner: Runner, call: Call) -> str | None:
    """As `why_no_prefix`, as far as it is known; None where the model was not tried yet."""
    reason = _not_of_tokens(call)
    if reason:
        return reason
    known = runner.prefixes.get(_key(runner, call))
    if known is None or not runner.tree.are_weights(known[1]):
        return None
    return known[0]


def _key(runner: Runner, call: Call) -> Any:
    length = call.args[0].shape[1]
    kind = length if length <= EXACT else 1 << (length - 1).bit_length()
    return "prefix", kind, runner.root.training


def _not_of_tokens(call: Call) -> str:
    if call.forward is not call_model or call.is_ragged:
        return "texts of several lengths"
    if call.kwargs or len(call.args) != 1 or call.tokens is None:
        return "the model is given more than token ids"
    if call.args[0].ndim != 2 or call.args[0].shape[1] < 2:
        return "a text of one token"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


# -- the proof ------------------------------------------------------------------------------------


def _tried(runner: Runner, call: Call, length: int) -> str:
    """Whether forwards on the rest of a text give what those on the whole do, and why not.

    Three texts that differ in their last two tokens, as one batch from there on; and the first of
    them from its middle on.
    """
    try:
        watched = watching_caches(runner.root)
    except NoKeptForm as form:
        return f"its layers keep more than keys and values ({form.kind})"
    except (AttributeError, TypeError):
        return "it takes no cache of mlx-lm's"
    before = random_state.current()
    try:
        census = runner.census(call)
        if census.draws:
            return "its forward draws random numbers"
        short = [k.window for k in each(watched) if k.window is not None and k.window < length]
        if short:
            return f"a window of {min(short)} tokens is shorter than the text"
        ids = _texts(census, length)
        with runner.tree.beyond.as_it_was():
            forward = _Forward(runner, census)
            return _agrees(forward, ids.astype(call.args[0].dtype), watched)
    finally:
        random_state.restore(before)


def _texts(census: Any, length: int) -> mx.array:
    size = census.rows[0][1] if 0 in census.rows else 2
    draw = random.Random(length)
    first, same = [draw.randrange(size) for _ in range(length)], max(length - LATE, 1)
    others = [[*first[:same], *[(n + k) % size for n in first[same:]]] for k in (1, 2)]
    return mx.array([first, *others])


class _Forward:
    """Forwards of the bare model, of which a list of values along positions is compared.

    Those are its logits.  Where these would be large, it is what enters the final norm instead, and
    the logits of the last positions alone, since norm and head treat each position by itself.
    """

    def __init__(self, runner: Runner, census: Census):
        output = census.values.get(WHOLE)
        large = isinstance(output, ARRAY) and ROWS * output.size > LARGE * output.shape[0]
        self.norm = stream_entry(census, runner.tree) if large else None
        self._tree, self._large = runner.tree, large
        self._plain = runner.modules()[""]

    def __call__(self, ids: mx.array, cache: list[Any] | None = None) -> list[mx.array]:
        if self._large and ids.shape[0] > 1 and cache is None:  # one row's attention at a time
            rows = [self(ids[k : k + 1]) for k in range(ids.shape[0])]
            return [mx.concatenate(list(parts)) for parts in zip(*rows, strict=True)]
        found: list[mx.array] = []

        def enter(path: str, norm: Callable[..., Any], args: tuple, kwargs: Any) -> Any:
            found.append(args[0])
            return norm(args[0][:, -LATE:])

        model = self._plain
        if self.norm is not None:
            model = StandIn(self._tree, [self.norm.path], enter).root
        found.append(_logits(model(ids) if cache is None else model(ids, cache=cache)))
        if self._large:
            mx.eval(found)  # before the next forward makes its own squares
        return found


def _agrees(forward: _Forward, ids: mx.array, watched: list[Any]) -> str:
    length = ids.shape[1]
    late, middle = max(length - LATE, 1), max(length // 2, 1)
    whole = forward(ids)
    base = forward(ids[:1], watched)
    if any(
        value.ndim != 3 or value.shape[:2] != (rows, length if k == 0 else min(LATE, length))
        for values, rows in ((whole, ROWS), (base, 1))
        for k, value in enumerate(values)
    ):
        return "its output is not one of positions"
    batch = forward(ids[:, late:], first_positions(watched, late))
    alone = forward(ids[:1, -1:], first_positions(watched, length - 1))
    half = forward(ids[:1, middle:], first_positions(watched, middle))
    first = [value[:1] for value in whole]
    logits = whole[-1]
    sure = SURE.get(logits.dtype, NOISE)
    if _off(logits[:1, -1], logits[1:2, -1]) <= 10 * sure:
        return "its output does not tell tokens apart"
    pairs = [(base, first, length), (batch, whole, length - late)]
    pairs += [(alone, first, 1), (half, first, length - middle)]
    for values, known, count in pairs:
        for one, other in zip(values, known, strict=True):
            other = other[:, -min(count, other.shape[1]) :]
            if one.shape != other.shape or _off(one, other) > sure:
                return "the rest of a text gives other numbers than the whole of it"
    return ""


def _off(one: mx.array, other: mx.array) -> float:
    """How far two arrays are from each other, as a part of the largest number."""
    one, other = one.astype(mx.float32), other.astype(mx.float32)
    off = mx.abs(one - other).max().item() / max(mx.abs(other).max().item(), 1e-6)
    return off if off == off else float("inf")  # type: ignore[return-value]


def _logits(output: Any) -> mx.array:
    return next(value for value in leaves(output) if isinstance(value, ARRAY))
