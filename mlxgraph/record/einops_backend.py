"""einops on proxies: its MLX backend, with the `repeat` that einops 0.8.2 gets wrong.

einops picks a backend by the tensor's type; this one is for proxies alone, plain arrays keep
einops' own.
"""

from __future__ import annotations

from typing import Any

from einops import _backends

from mlxgraph.record.proxy import Proxy


class ProxyBackend(_backends.MLXBackend):  # type: ignore[misc]
    """MLX functions, looked up when they are called: inside a block they record."""

    framework_name = "mlxgraph"

    def is_appropriate_type(self, tensor: Any) -> bool:
        """Whether a tensor is a proxy."""
        return type(tensor) is Proxy

    # einops calls it in this form, which its own MLX backend does not have
    def add_axes(  # type: ignore[override]
        self, x: Any, n_axes: int, pos2len: dict[int, int]
    ) -> Any:
        """`x` repeated along new axes: their positions in the result, and their lengths."""
        repeats = [1] * n_axes
        for position, length in pos2len.items():
            x = self.mx.expand_dims(x, position)
            repeats[position] = length
        return self.tile(x, tuple(repeats))


def register() -> None:
    """Tell einops which backend proxies take."""
    _backends._type2backend[Proxy] = ProxyBackend()
