"""Activations kept by name, and looked up by any form of a site's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, KeysView, Sequence
from typing import Any

from mlxgraph.analysis.inputs import (
    arrays_in,
    check_model,
    computed,
    names_of,
    token_strings,
)
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import UnknownNameError, UnknownSiteError
from mlxgraph.errors.tracebacks import at_the_edge, with_edges


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


@at_the_edge
def collect_activations(
    model: Traceable, inputs: Any, layers: Sequence[Any] | None = None
) -> ActivationCache:
    """Run a model once and keep its modules' outputs, computed.

    Args:
        inputs: as for `model.trace`; a tuple stands for several arguments.
        layers: names of modules in any form, patterns, or module handles; `.input` at the end
            means the first argument; every module that the forward calls if left out.
    Returns: an ActivationCache under the names that were given, or (of patterns and handles)
        under canonical ones; with nothing given, under those that `trace.activations` lists.
    Raises: UnknownSiteError (an AttributeError and a KeyError) for a name that no module has, or
        none that this forward calls.
    """
    check_model(model)
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
