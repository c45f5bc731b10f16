"""A sweep against a loop of `model.run`, number by number."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxgraph.graph.nested import leaves

SURE = {mx.float32: 1e-5, mx.float16: 2e-2, mx.bfloat16: 6e-2}


def off(one: mx.array, other: mx.array) -> float:
    """How far an array is from another, as a part of the other's largest number."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    if not one.size or bool(mx.array_equal(one, other, equal_nan=True)):
        return 0.0
    one, other = one.astype(mx.float32), other.astype(mx.float32)
    size = mx.abs(mx.where(mx.isfinite(other), other, 0.0)).max().item()
    same = (one == other) | (mx.isnan(one) & mx.isnan(other))
    most = mx.where(same, 0.0, mx.abs(one - other)).max().item()
    return most / max(size, 1e-6) if most == most else float("inf")


def arrays(result: Any) -> list[mx.array]:
    """What a result holds: its saves, or the output where nothing was saved."""
    values = [*result.saves.values()] or [result.output]
    return [leaf for leaf in leaves(values) if isinstance(leaf, mx.array)]


def furthest(ones: Any, others: Any) -> float:
    """The largest distance, as a part of what is sure in the dtype, of results from others."""
    worst = 0.0
    for one, other in zip(ones, others, strict=True):
        assert one.saves.keys() == other.saves.keys()
        for a, b in zip(arrays(one), arrays(other), strict=True):
            worst = max(worst, off(a, b) / SURE.get(b.dtype, 1e-5))
    return worst


def loop(model: Any, x: Any, graphs: Any, **kwargs: Any) -> list[Any]:
    """One run after the other, as they stand: no rewrites, nothing compiled."""
    inputs = x if isinstance(x, tuple) else (x,)
    return [model.run(g, *inputs, optimize=False, compile=False, **kwargs) for g in graphs]


def ways(swept: Any) -> list[tuple[str, int]]:
    """How the variants of a sweep were done: the way of each forward, and where it began."""
    return [(one.way, one.start) for one in swept.plan.forwards]


def moved(model: Any, site: Any, x: Any, index: Any, by: float = -0.7, name: str = "l") -> Any:
    """A graph that scales a part of a site, a function of the model, and saves the last logits."""
    with model.trace(x) as t:
        value = site(model)
        value[index] = value[index] * by
        model.output[:, -1].save(name)
    return t.graph
