"""Activations kept by name, and looked up by any form of a site's name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, KeysView
from typing import Any, overload

import mlx.core as mx

from mlxgraph.analysis.inputs import (
    arrays_in,
    check_model,
    computed,
    names_of,
    token_strings,
)
from mlxgraph.analysis.positions_kept import kept
from mlxgraph.analysis.prompts_in import stream_of
from mlxgraph.analysis.to_disk import to_disk
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, UnknownNameError, UnknownSiteError
from mlxgraph.errors.tracebacks import at_the_edge, with_edges
from mlxgraph.store.reader import ActivationStore


@with_edges
class ActivationCache:
    """Computed activations of one run.  Made by `collect_activations`.

    Attributes:
        activations: by name an array, or a tuple, list or dict of arrays where a module returns
            one.
        metadata: what the run was: `inputs`, `tokens`, `lengths`, and where it was given tokens
            `token_strings`, a list for each row without its padding.
    """

    def __init__(
        self,
        activations: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        same_site: Callable[[Any], Any] | None = None,
    ):
        self.activations = activations
        self.metadata = {} if metadata is None else metadata
        self._site = same_site
        self._by_site = {} if same_site is None else {same_site(name): name for name in activations}

    def get(self, name: Any) -> Any:
        """An activation by any form of its name.  Raises: UnknownNameError (a KeyError)."""
        known = self._find(name)
        if known is None:
            raise UnknownNameError(
                "cached activation",
                str(name),
                self.activations,
                "`name in cache` asks without raising.",
            )
        return self.activations[known]

    def _find(self, name: object) -> str | None:
        if name in self.activations:
            return str(name)
        if self._site is None:
            return None
        try:
            return self._by_site.get(self._site(name))
        except UnknownSiteError:
            return None

    def keys(self) -> KeysView[str]:
        """The names of what is kept."""
        return self.activations.keys()

    def __getitem__(self, name: Any) -> Any:
        return self.get(name)

    def __contains__(self, name: object) -> bool:
        return self._find(name) is not None

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.activations)

    def __iter__(self) -> Iterator[str]:
        return iter(self.activations)

    def __len__(self) -> int:
        return len(self.activations)

    def __repr__(self) -> str:
        return f"<ActivationCache of {len(self)} activations>"


@overload
def collect_activations(
    model: Traceable, inputs: Any, layers: Any = None, *, to: None = None
) -> ActivationCache: ...


@overload
def collect_activations(
    model: Traceable, inputs: Any, layers: Any = None, *, dtype: mx.Dtype | None = None,
    to: str | os.PathLike[str], progress: bool | None = None,
) -> ActivationStore: ...  # fmt: skip


@at_the_edge
def collect_activations(
    model: Traceable,
    inputs: Any,
    layers: Any = None,
    *,
    dtype: mx.Dtype | None = None,
    to: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Any:
    """Run a model once and keep its modules' outputs, computed.

    With `to=` they go to a folder, batch after batch, as of `get_activations` with all positions.

    Args:
        inputs: as for `model.trace`; a tuple stands for several arguments.
        layers: names of modules in any form, patterns, or module handles; `.input` at the end
            means the first argument; every module that the forward calls if left out.
        dtype, to, progress: as for `get_activations`; then `inputs` are prompts as it takes them.
    Returns: an ActivationCache under the names that were given, or (of patterns and handles)
        under canonical ones; with nothing given, under those that `trace.activations` lists.
        With `to=` an ActivationStore.
    Raises: UnknownSiteError (an AttributeError and a KeyError) for a name that no module has, or
        none that this forward calls; with `to=` what `get_activations` raises.
    """
    check_model(model)
    if to is not None:
        return _to_disk(model, inputs, layers, dtype, to, progress)
    if dtype is not None or progress is not None:
        raise InputError("dtype= and progress= go with to=.\n  Leave them out, or give a folder.")
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    with model.trace(*given) as trace:
        names = list(trace.activations) if layers is None else names_of(model, layers)
        for name in names:
            trace.activations[name]  # saved, by being looked at inside the block
    found = {name: trace.activations[name] for name in names}
    computed([list(arrays_in(value)) for value in found.values()])
    metadata: dict[str, Any] = {"inputs": inputs, "lengths": trace.lengths, "tokens": trace.tokens}
    if trace.tokens is not None:
        rows = trace.tokens.tolist()
        strings = token_strings(model, [token for row in rows for token in row])
        metadata["token_strings"] = [
            [strings[token] for token in row[len(row) - length :]]
            for row, length in zip(rows, trace.lengths or [], strict=True)
        ]
    return ActivationCache(found, metadata, lambda name: tuple(model.sites(name)))


def _to_disk(
    model: Traceable, inputs: Any, layers: Any, dtype: Any, to: Any, progress: Any
) -> ActivationStore:
    if layers is None:
        if not isinstance(inputs, (str, list, tuple, mx.array, dict)):
            raise InputError(
                "which modules a forward calls is not known before the first prompt.\n"
                "  Give layers=, such as ['layers.*', 'layers.*.mlp']."
            )
        row = next(stream_of(model, inputs))
        with model.trace(row if isinstance(row, list) else row[None]) as trace:
            names = list(trace.activations)
    else:
        names = names_of(model, layers)
    sites = {name: name for name in names}
    return to_disk(model, inputs, sites, kept("all", None), to, dtype=dtype, progress=progress)
