"""Head detectors: how much of each head's attention goes where heads of a known kind look.

The text is random tokens that come twice: nothing but position and repetition says where to look.

In: a model, kinds of heads.  Out: Effects by kind, layer and head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.components import Place, places_of
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.inputs import choose_layers, computed, first_array, whole_number
from mlxgraph.analysis.together import among_ranks, weights_of
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, UnknownNameError
from mlxgraph.ranks.said import digest

INDUCTION, PREVIOUS, DUPLICATE = "induction", "previous token", "duplicate token"
FIRST = "first token"
KINDS = (INDUCTION, PREVIOUS, DUPLICATE, FIRST)
ROWS = 4  # texts in one forward: a pattern has a number for each pair of tokens


def head_scores(
    model: Traceable,
    kinds: str | Sequence[str] = (INDUCTION, PREVIOUS, DUPLICATE),
    layers: Sequence[int] | int | None = None,
    *,
    length: int = 16,
    samples: int = 8,
    seed: int = 0,
) -> Effects:
    """Which heads are induction heads, previous-token heads, duplicate-token heads.

    Each score is the share of a head's attention, 0 to 1, that goes to one place: the mean over
    queries of random texts, `length` tokens that come twice, all of them different, after the
    tokenizer's first special token if it adds one.

    Args:
        kinds: `"induction"`: from a token of the second half to the one *after* the same token of
            the first; `"previous token"`: to the token before; `"duplicate token"`: from a token of
            the second half to the same token of the first; `"first token"`: to the first of the
            text, where heads look that have nothing to find.  A list, or one.
        layers: layer numbers; all that compute an attention if left out.
        length: tokens of the half that is repeated, 2 or more; samples: texts; seed: of the tokens:
            the same seed is the same texts.
    Returns: Effects "attention" along "kind", "layer" and "head", without "kind" for one by itself;
        `.top(5)` lists the largest, `.plot()` draws a map for each kind.  NaN where a layer has
        fewer heads than another.
    Raises: UnknownNameError for a kind, InputError for a length that the vocabulary has not enough
        tokens for, BoundsError for a layer, UnknownSiteError and NeverCalledError for a model, or
        a layer that was asked for, whose attention patterns cannot be read.
    Source: Olsson et al. 2022, arXiv:2209.11895; Elhage et al. 2021, "A mathematical framework for
        transformer circuits"; Wang et al. 2022, arXiv:2211.00593, for duplicate tokens.

    Example:
        >>> scores = model.head_scores()
        >>> scores.sel(kind="induction").top(3)
    """
    single = isinstance(kinds, str)
    wanted = [kinds] if isinstance(kinds, str) else _listed(kinds)
    for kind in wanted:
        if kind not in KINDS:
            raise UnknownNameError("kind of head", str(kind), KINDS)
    length = _at_least(length, "length", 2)
    samples = _at_least(samples, "samples", 1)
    chosen = choose_layers(model, layers)
    texts = _texts(model, length, samples, whole_number(seed, "seed"))
    start = texts.shape[1] - 2 * length
    places = places_of(model, texts[:1], "pattern", chosen, layers is not None)
    most = max(place.heads for place in places)
    total = np.zeros((len(wanted), len(places), most))
    parts = list(_some(texts))
    with among_ranks("model.head_scores", model) as work:
        if work.size > 1:
            asked = digest(wanted, [place.name for place in places])
            work.agree(
                f"{samples} texts", texts=digest(texts), kinds=asked, weights=weights_of(model)
            )
        found = {}
        for part in work.mine([float(rows.size) for rows in parts]):
            found[part] = _shares(model, parts[part], places, wanted, start, length)
            work.check()
        every = work.exchanged(found)
    for part, rows in enumerate(parts):
        for (k, number), shares in every[part].items():
            total[k, number, : shares.size] += np.asarray(shares, dtype=np.float64) * len(rows)
    total /= samples
    for number, place in enumerate(places):
        total[:, number, place.heads :] = np.nan
    axes: dict[str, Any] = {
        "kind": wanted,
        "layer": [place.layer for place in places],
        "head": range(most),
    }
    if single:
        del axes["kind"]
    return Effects(
        total[0] if single else total,
        axes,
        name="attention",
        attrs={
            "length": length,
            "samples": samples,
            "seed": seed,
            "title": f"{wanted[0].capitalize()} heads" if single else "Heads by kind",
        },
    )


class _Looks(NamedTuple):
    """From where to where: queries and the key of each."""

    queries: list[int]
    keys: list[int]


def _looks(kind: str, start: int, length: int) -> _Looks:
    """Args: start: where the random tokens begin."""
    second = list(range(start + length, start + 2 * length))
    if kind == INDUCTION:
        return _Looks(second, [query - length + 1 for query in second])
    if kind == DUPLICATE:
        return _Looks(second, [query - length for query in second])
    queries = list(range(start + 1, start + 2 * length))
    return _Looks(queries, [query - 1 if kind == PREVIOUS else 0 for query in queries])


def _shares(
    model: Traceable,
    rows: mx.array,
    places: Sequence[Place],
    kinds: Sequence[str],
    start: int,
    length: int,
) -> dict[tuple[int, int], mx.array]:
    """For each kind and layer the mean share of attention, (heads,), over some texts."""
    looks = [_looks(kind, start, length) for kind in kinds]
    found: dict[tuple[int, int], Any] = {}
    with model.trace(rows):
        for number, place in enumerate(places):
            pattern = place.value(model)
            for k, look in enumerate(looks):
                share = pattern[:, :, mx.array(look.queries), mx.array(look.keys)]
                found[k, number] = share.astype(mx.float32).mean(axis=(0, 2)).save()
    computed(found)
    return found


def _some(texts: mx.array) -> Iterator[mx.array]:
    for start in range(0, texts.shape[0], ROWS):
        yield texts[start : start + ROWS]


def _listed(kinds: Any) -> list[Any]:
    if not isinstance(kinds, (list, tuple)) or not kinds:
        raise InputError(
            f"kinds={kinds!r:.60} name no kinds of heads.\n"
            f"  Write kinds={list(KINDS[:2])}, of {', '.join(map(repr, KINDS))}."
        )
    return list(dict.fromkeys(kinds))


def _at_least(given: Any, what: str, least: int) -> int:
    number = whole_number(given, what)
    if number < least:
        raise InputError(f"{what}={number} is too few.\n  Write {what}={least}, or more.")
    return number


def _texts(model: Traceable, length: int, samples: int, seed: int) -> mx.array:
    """Random tokens that come twice, (samples, length of a text)."""
    if seed < 0:
        raise InputError(f"seed={seed} is below 0.\n  Write seed={-seed}.")
    ids = _vocabulary(model)
    if length > len(ids):
        raise InputError(
            f"length={length} different tokens are needed, and the vocabulary has {len(ids)}.\n"
            f"  Write length={len(ids)}, or less."
        )
    draw = np.random.default_rng(seed)
    halves = np.stack([draw.choice(ids, length, replace=False) for _ in range(samples)])
    first = np.tile(np.array(_first_tokens(model), dtype=np.int64), (samples, 1))
    return mx.array(np.concatenate([first, halves, halves], axis=1).astype(np.int32))


def _vocabulary(model: Traceable) -> np.ndarray:
    """The ids of ordinary tokens."""
    plain = model.without_edits()  # edits may ask for positions of a text
    with plain.trace(mx.array([[0]])):
        count = first_array(plain.output).shape[-1]
    tokenizer = model.tokenizer
    if tokenizer is None:
        return np.arange(count)
    known = set(tokenizer.get_vocab().values()) if hasattr(tokenizer, "get_vocab") else set()
    known = {token for token in known or range(count) if 0 <= token < count}
    special = set(getattr(tokenizer, "all_special_ids", None) or ())
    added = getattr(tokenizer, "added_tokens_decoder", None)
    if added is None and hasattr(tokenizer, "get_added_tokens_decoder"):  # `tokenizers`' own class
        added = tokenizer.get_added_tokens_decoder()
    special |= {token for token, one in dict(added or {}).items() if getattr(one, "special", True)}
    return np.array(sorted(known - special))


def _first_tokens(model: Traceable) -> list[int]:
    """What the tokenizer puts before every text: one token, or nothing."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        return []
    bos = getattr(tokenizer, "bos_token_id", None)
    return [bos] if bos is not None and model.encode("a")[:1] == [bos] else []
