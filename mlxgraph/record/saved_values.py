"""What a block or a pass has saved, by name: a dict that knows the model's own values by two names.

The whole model's output is saved as `model.output`; to whoever names sites by text it is
`__model_output__`, and either finds it.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.errors import UnknownNameError
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.graph.site import INPUTS, MODEL_OUTPUT, Site

_NAMES = {  # as text names a site -> as the user writes it
    MODEL_OUTPUT: Site("").spoken,
    str(Site("", INPUTS)).removesuffix("s"): Site("", INPUTS).spoken.removesuffix("s"),
}


class SavedValues(dict[str, Any]):
    """Saved values by name."""

    @at_the_edge
    def __missing__(self, name: Any) -> Any:
        other = self._other(name)
        if other is None:
            raise UnknownNameError("saved value", str(name), self)
        return self[other]

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, name) or self._other(name) is not None

    def get(self, name: Any, default: Any = None) -> Any:
        """The value of that name, or else `default`."""
        return self[name] if name in self else default

    def _other(self, name: object) -> str | None:
        """The name, among those that are here, that means the same."""
        said = _as_written(name) if isinstance(name, str) else None
        return next((own for own in self if _as_written(own) == said), None)

    def __reduce__(self) -> Any:
        return dict, (dict(self),)  # comes back without the library


def _as_written(name: str) -> str:
    for text, spoken in _NAMES.items():
        if name.startswith(text):
            return spoken + name[len(text) :]
    return name
