"""Devices by name: `mx.cpu`, `mx.Device(mx.cpu)` and the default stream of it mean one thing to an
operation's `stream=`."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

_NAMES = {"cpu": mx.cpu, "gpu": mx.gpu}


def device_name(value: Any) -> str | None:
    """The name of the device whose default stream is meant; None for whatever else.

    A stream equals another of the same device and number; asking for the default stream of a
    device that is not there raises, and nobody can have one of its streams.
    """
    if isinstance(value, mx.Stream):
        return device_name(value.device) if value == mx.default_stream(value.device) else None
    if isinstance(value, mx.Device):
        first = mx.Device(value.type, 0)
        return device_name(value.type) if value == first else None
    if isinstance(value, mx.DeviceType):
        return next((name for name, kind in _NAMES.items() if kind == value), None)
    return None


def device_named(name: str) -> Any:
    """What to hand to `stream=` for a device."""
    return _NAMES[name]
