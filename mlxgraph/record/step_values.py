"""What a value that was saved in a generation is after its block: one value a step.

    h[0]          of the prompt, all its chunks, (1, prompt, ...)
    h[1]          of the first new token's forward, (1, 1, ...)
    h.steps       the steps that there are values of
    list(h)       the values, in order

To `isinstance` it is the array that it was in the block, and to nothing else: what takes an array
is given one of its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

from mlxgraph.errors import NoStepError, OperationError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge, with_edges
from mlxgraph.graph.nested import is_a_leaf
from mlxgraph.mlx_facts.arrays import wear
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.handle import SLOTS
from mlxgraph.record.proxy import Saved

_HOW = "Take one, h[0]; all of them are list(h), or mx.concatenate(list(h), axis=1)"


@with_edges
class Steps:
    """One value a step of a generation, by the step's number.

    `h[0]` is the prompt's, `h[-1]` the last there is; `len`, iteration and slices go over those
    that there are, and `h.steps` are their numbers.
    """

    __slots__ = ("name", "by_step")

    def __init__(self, name: str, by_step: Mapping[int, Any]):
        self.name = name
        self.by_step = by_step  # not a copy: while tokens come, whoever made it adds to it

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that there are values of."""
        return tuple(self.by_step)

    @property
    def value(self) -> list[Any]:
        """The values, in the order of the steps."""
        return list(self.by_step.values())

    def __getitem__(self, step: Any) -> Any:
        """The value of a step.  Raises: NoStepError (an IndexError) where it has none."""
        if isinstance(step, slice):
            numbers = range(*step.indices(max(self.steps, default=-1) + 1))
            return [self.by_step[k] for k in numbers if k in self.by_step]
        if not isinstance(step, int) or isinstance(step, bool):
            raise _no_array(self, f"the index {step!r}")
        if -len(self.by_step) <= step < 0:
            step = self.steps[step]
        if step not in self.by_step:
            raise NoStepError(
                f"{self.name!r} has no value of step {step}: {self._said()}.",
                str(here()),
                "A step has one where its forward holds what is saved; h.steps lists them.",
            )
        return self.by_step[step]

    def _said(self) -> str:
        steps = self.steps
        if len(steps) < 2:
            return f"there is one, of step {steps[0]}" if steps else "no step gave any"
        return f"there are {len(steps)}, of steps {steps[0]} to {steps[-1]}"

    def __len__(self) -> int:
        return len(self.by_step)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.value)

    def __repr__(self) -> str:
        first = list(self.by_step.items())[:3]
        inside = ", ".join(f"{k}: {_kind(v)}" for k, v in first)
        more = f", ... {len(self)} in all" if len(self) > len(first) else ""
        return f"<{self.name}, one value a step: {{{inside}{more}}}>"

    def __reduce__(self) -> Any:
        return Steps, (self.name, self.by_step)


is_a_leaf(Steps)


def _kind(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, ARRAY) else type(value).__name__


def _no_array(steps: Steps, use: str) -> OperationError:
    return OperationError(
        use,
        f"{steps.name!r}, saved in a generation",
        str(here()),
        f"it is a value a step.\n  {_HOW}",
    )


def _of_steps(name: str) -> Any:
    def method(self: Any, *args: Any) -> Any:
        return getattr(self._result, name)(*args)

    return at_the_edge(method)


def _refusing(name: str) -> Any:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise _no_array(self._result, name.strip("_"))

    return at_the_edge(refuse)


_KEPT = frozenset(
    """__class__ __new__ __init__ __del__ __getattribute__ __getattr__ __setattr__ __delattr__
    __dir__ __doc__ __init_subclass__ __subclasshook__ __sizeof__ __format__ __reduce__
    __getstate__ __module__ __slots__ __class_getitem__ __hash__ save""".split()
)


def _members() -> dict[str, Any]:
    """Of what an array does, nothing but what values a step do."""
    found: dict[str, Any] = {"__slots__": (), "__hash__": object.__hash__}
    for name in dir(Saved):
        if name not in _KEPT and name not in SLOTS:
            refusal = _refusing(name)
            is_method = callable(getattr(ARRAY, name, None))
            found[name] = refusal if is_method else property(refusal)
    for name in ("__getitem__", "__len__", "__iter__", "__repr__"):
        found[name] = _of_steps(name)
    found["__str__"] = found["__repr__"]
    found["__reduce_ex__"] = lambda self, protocol: self._result.__reduce__()
    for name in ("steps", "value"):
        found[name] = property(attrgetter(f"_result.{name}"))
    return found


StepValues = type("StepValues", (Saved,), _members())


def fill_steps(handle: Any, by_step: Mapping[int, Any], name: str) -> None:
    """Make a saved handle what it is after the block of a generation."""
    steps = Steps(name, by_step)
    handle._recording = handle._origin = None
    handle._result = steps
    if isinstance(handle, ARRAY):
        wear(handle, StepValues)
