"""Whether the objects of a class change themselves: state that is kept, not a value that is passed.

Read from the bytecode of the class's own methods: `self.x = v`, `self.x[i] = v`, `self[i] = v` and
`self.x.append(v)`.  What builds an object does not count: `__init__` and the other dunder methods,
the methods that `__init__` calls, and setters that keep what they are given on the object itself.
In: a class.  Out: a bool.  Never: runs anything of the class.
"""

from __future__ import annotations

import dis
from functools import cached_property
from types import FunctionType
from typing import Any

_CHANGING = frozenset(
    "append appendleft extend insert pop popitem popleft update setdefault clear add remove".split()
)
_LOADS = ("LOAD_ATTR", "LOAD_METHOD")


def changes_itself(kind: type) -> bool:
    """Whether a method of a class changes the object that it is called on."""
    building = _called_in_building(kind)
    for base in kind.__mro__:
        if base.__module__ in ("builtins", "collections", "typing", "types"):
            continue
        for name, member in vars(base).items():
            if isinstance(member, property) and not _sets_its_own(member):
                return True
            if isinstance(member, cached_property) or name.startswith("__") or name in building:
                continue
            if isinstance(member, FunctionType) and _changes_first_argument(member):
                return True
    return False


def _sets_its_own(member: property) -> bool:
    """Whether setting a property is nothing but setting an attribute of another name."""
    setter = member.fset
    return setter is None or (isinstance(setter, FunctionType) and _changes_first_argument(setter))


def _called_in_building(kind: type) -> set[str]:
    """The names that `__init__` and `__post_init__` use, which may be those of methods."""
    makers = [getattr(kind, name, None) for name in ("__init__", "__post_init__")]
    return {name for m in makers if isinstance(m, FunctionType) for name in m.__code__.co_names}


def _changes_first_argument(function: FunctionType) -> bool:
    code = function.__code__
    if not code.co_argcount:
        return False
    this = code.co_varnames[0]
    found = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "PRECALL")]
    for k, instruction in enumerate(found):
        if instruction.opname in ("STORE_ATTR", "DELETE_ATTR") and _is_part(found, k - 1, this, 0):
            return True
        if instruction.opname == "STORE_SUBSCR" and _is_part(found, _before(found, k), this, 1):
            return True
        if instruction.opname in _LOADS and instruction.argval in _CHANGING:
            if _is_part(found, k - 1, this, 1) and found[k - 1].opname in _LOADS:
                return True
    return False


def _is_part(found: list[Any], k: int, this: str, depth: int) -> bool:
    """Whether the k-th instruction puts `this`, or up to `depth` attributes of it, on the stack."""
    while depth and k > 0 and found[k].opname in _LOADS:
        k, depth = k - 1, depth - 1
    if k < 0 or not found[k].opname.startswith("LOAD_FAST"):
        return False
    name = found[k].argval
    return bool((name[-1] if isinstance(name, tuple) else name) == this)


def _before(found: list[Any], k: int) -> int:
    """The instruction that puts the container of the subscript at `k` on the stack."""
    needed = 1  # the key, which stands last
    while needed > 0 and k > 0:
        k -= 1
        try:
            needed -= dis.stack_effect(found[k].opcode, found[k].arg, jump=False)
        except ValueError:
            return -1
    return k - 1
