"""Sites: where in a model a graph can read and write.

A site is a module's dotted path, a port of that module, and which of its calls in one forward.
Pure names: nothing here knows whether a model has such a site.
"""

from __future__ import annotations

from typing import NamedTuple

MODEL_OUTPUT = "__model_output__"
ROOT_PREFIX = "model."  # a model's module may be named from its root, or without it
OUTPUT = "output"
INPUTS = "inputs"
SCOPE = "@"  # while several prompts are recorded, their sites are `@number:path`
BY_NAME = -1  # the number of a call that is not said: the first by that name
_AS_WRITTEN = {"": "model", "model": "model.model"}  # a part of the model may be called `model`
SKIP = "skip"  # written only: the module is not run, and this is its output


class Site(NamedTuple):
    """Where: module path (`""` is the whole model), port (`output`, `inputs`, ...), call number.

    `inputs` holds `(args, kwargs)` of the call; `.input` is its first positional argument.
    A module with several paths counts its calls whatever the path; which of them are made by one
    path a census knows, and until then the call is `BY_NAME`.
    """

    path: str
    port: str = OUTPUT
    call: int = 0

    def __str__(self) -> str:
        if self.path.startswith(SCOPE):
            return f"{self.unscoped} in invoke {self.path[1:].partition(':')[0]}"
        if not self.path:
            if self.port == OUTPUT and self.call <= 0:
                return MODEL_OUTPUT
            return f"__model__{self._tail}"
        return f"{self.path}{self._tail}"

    @property
    def _tail(self) -> str:
        call = f".calls[{self.call}]" if self.call > 0 else ""
        return f"{call}.{self.port}"

    @property
    def spoken(self) -> str:
        """The site as the user writes it: `model.output` for the whole model's."""
        if self.path.startswith(SCOPE):
            return f"{self.unscoped.spoken} in invoke {self.path[1:].partition(':')[0]}"
        return _AS_WRITTEN.get(self.path, self.path) + self._tail

    @property
    def unscoped(self) -> Site:
        """The site without the number of its invoke, where there are several prompts."""
        scoped = self.path.startswith(SCOPE)
        return self._replace(path=self.path.partition(":")[2]) if scoped else self

    @property
    def name(self) -> str:
        """The site as `trace.activations` lists it: an output goes by its module's path."""
        if self.port == OUTPUT and self.call <= 0 and self.path:
            return self.path
        return str(self)
