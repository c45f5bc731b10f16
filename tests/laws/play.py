"""The programs of the interpreter, played to the library as a user would write them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from einops import rearrange

from tests.laws.interpreter import (
    Attribute,
    Aug,
    Compute,
    Copy,
    H,
    Read,
    Replace,
    Save,
    Set,
    Site,
    View,
)


def perform(model: Any, program: list[Any], inputs: tuple, compile: Any = False) -> tuple:
    """The program written in a block: its saves, the output, the trace."""
    with model.trace(*inputs, compile=compile) as t:
        handles: dict[int, Any] = {}
        kept = []
        for step in program:
            made = play(model, handles, step)
            if isinstance(step, Save):
                kept.append(made)
    return kept, t.output, t


def play(model: Any, handles: dict[int, Any], step: Any) -> Any:
    """One instruction, as a user would write it."""

    def operand(value: Any) -> Any:
        return handles[value.number] if isinstance(value, H) else value

    match step:
        case Read(dst, site):
            handles[dst] = read(model, site)
        case View(dst, src, how, args):
            handles[dst] = view(handles[src], how, args)
        case Compute(dst, op, a, b):
            handles[dst] = compute(op, handles[a], operand(b))
        case Copy(dst, src):
            handles[dst] = mx.array(handles[src])
        case Set(handle, index, value):
            handles[handle][index] = operand(value)
        case Aug(handle, op, value):
            h = handles[handle]
            if op == "add":
                h += operand(value)
            elif op == "subtract":
                h -= operand(value)
            else:
                h *= operand(value)
            assert h is handles[handle]
        case Replace((path, port, call), value):
            setattr(place(model, path, port, call), port, operand(value))
        case Replace(site, value):
            whole, key = read(model, site[:-1]), site[-1]
            if isinstance(key, Attribute):
                setattr(whole, key, operand(value))
            else:
                whole[key] = operand(value)
        case Save(dst, src):
            handles[dst] = handles[src].save()
            return handles[dst]
    return None


def place(model: Any, path: str, port: str, call: int) -> Any:
    """Where the port of a call is an attribute."""
    return model if not path and port == "output" else model[path].calls[call]


def read(model: Any, site: Site) -> Any:
    """A site, or the part of its nested value that its keys lead to."""
    path, port, call, *keys = site
    value = getattr(place(model, path, port, call), port)
    for key in keys:
        value = getattr(value, key) if isinstance(key, Attribute) else value[key]
    return value


def view(h: Any, how: str, args: tuple) -> Any:
    """The library's spelling of each view; methods and functions by turns."""
    match how:
        case "index":
            return h[args[0]]
        case "reshape":
            return h.reshape(*args[0]) if len(args[0]) % 2 else mx.reshape(h, args[0])
        case "flatten":
            return h.flatten() if h.ndim % 2 else mx.flatten(h)
        case "unflatten":
            return mx.unflatten(h, args[0], args[1])
        case "transpose":
            return h.transpose(*args[0]) if h.ndim % 2 else mx.transpose(h, args[0])
        case "swapaxes":
            return h.swapaxes(*args)
        case "moveaxis":
            return mx.moveaxis(h, *args)
        case "squeeze":
            return h.squeeze(*args)
        case "expand_dims":
            return mx.expand_dims(h, *args)
        case "split":
            return mx.split(h, args[0], args[1])[args[2]]
        case "T":
            return h.T
        case "heads":
            names = " ".join(f"a{k}" for k in range(h.ndim - 2))
            return rearrange(h, f"{names} s (h d) -> {names} h s d", h=args[0])
    raise AssertionError(how)


def compute(op: str, a: Any, b: Any) -> Any:
    """The library's spelling of each operation."""
    match op:
        case "add":
            return a + b
        case "subtract":
            return mx.subtract(a, b)
        case "multiply":
            return a * b
        case "radd":
            return b + a
        case "rsub":
            return b - a
        case "tanh":
            return mx.tanh(a)
        case "softmax":
            return mx.softmax(a, axis=-1)
        case "negative":
            return -a
        case "maximum":
            return mx.maximum(a, b)
        case "mean":
            return a.mean(axis=-1, keepdims=True)
    raise AssertionError(op)
