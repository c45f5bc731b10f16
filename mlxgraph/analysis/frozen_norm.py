"""A norm as the linear map that it is once its scale is fixed.

What a norm gives of a state is `scale * gain * state + bias`, after taking off the mean where it
is a LayerNorm.  The scale is one number a position, a function of the whole state.  Fixed at the
value that it has in a run, the rest is linear: each part of the state has its share of what comes
out.

In: a norm module, what it was given and what it gave in a run.  Out: the map, or None where the
module is none of these.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

ROUNDINGS = 16  # steps of the dtype that a norm written out in several operations may be off by


class FrozenNorm(NamedTuple):
    """`scale * gain * x + bias` at each position, in float32.

    Attributes: gain, bias: shape (width,); scale: (positions, 1); centred: whether the mean is
        taken off first.
    """

    gain: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    centred: bool

    def pulled(self, directions: np.ndarray) -> np.ndarray:
        """Directions after the norm as directions before it: what a state has along these is what
        the norm's output, without its bias, has along the ones given.

        Args: directions: shape (..., positions, width).
        """
        return _centred(directions * self.gain * self.scale, self.centred)


def frozen_norm(module: Any, given: np.ndarray, made: np.ndarray, step: float) -> FrozenNorm | None:
    """The map that a norm was in a run.

    Args: given, made: (positions, width), float32; step: how far apart neighbouring numbers are in
        the dtype that the run was in, relative to them.
    """
    probe = _probe(given.shape[-1])
    try:
        answer = module(mx.array(np.stack([probe, -probe]))[None])[0].astype(mx.float32)
        there, back = np.array(answer)
    except Exception:  # it takes something else than a state
        return None
    bias, gain = (there + back) / 2, (there - back) / (2 * probe)
    for centred in (False, True):
        shaped = gain * _centred(given, centred)
        size = np.sum(shaped * shaped, axis=-1, keepdims=True)
        scale = np.sum((made - bias) * shaped, axis=-1, keepdims=True) / np.maximum(size, 1e-38)
        gap = np.abs(made - bias - scale * shaped)
        allowed = np.abs(scale * shaped) + np.abs(bias)
        if centred:  # the mean that is taken off is rounded too, and is of the size of the state
            allowed = allowed + np.abs(gain * scale) * np.abs(given).max(axis=-1, keepdims=True)
        if np.all(gap <= ROUNDINGS * step * allowed + 1e-30):
            return FrozenNorm(gain, scale, bias, centred)
    return None


def _probe(width: int) -> np.ndarray:
    """Numbers of about one size that add up to nothing: taking off their mean leaves them."""
    signs = np.where(np.arange(width) % 2 == 0, 1.0, -1.0).astype(np.float32)
    if width % 2 and width > 1:
        signs[-3:] = 1.0, 1.0, -2.0
    return signs


def _centred(x: np.ndarray, centred: bool) -> np.ndarray:
    return x - np.mean(x, axis=-1, keepdims=True) if centred else x
