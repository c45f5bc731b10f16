"""What a function's code says: the globals it loads and stores, the names it speaks of.

In: a code object.  Out: names.  Never: runs it.
"""

from __future__ import annotations

import dis
from functools import lru_cache
from types import CodeType
from typing import NamedTuple


class Reads(NamedTuple):
    """Of code, that of the functions written in it included.

    Attributes:
        loaded, stored: globals; spoken: names of attributes, and texts that may be one.
        owners: globals that it sets attributes of.
        of_classes: whether it may set attributes of what it found to be a class.
    """

    loaded: frozenset[str]
    stored: frozenset[str]
    spoken: frozenset[str]
    owners: frozenset[str]
    of_classes: bool


@lru_cache(maxsize=4096)
def reads_of(code: CodeType) -> Reads:
    """What code says."""
    loaded, stored, spoken, owners = set(), set(), set(code.co_names), set()
    last = ""  # the global that was loaded by the step before
    writes = False
    for step in dis.get_instructions(code):
        if last and step.opname in ("STORE_ATTR", "COPY", "DUP_TOP"):  # `=`, and `+=`
            owners.add(last)
        last = ""
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            loaded.add(last := step.argval)
        elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            stored.add(step.argval)
        elif step.opname in ("STORE_ATTR", "DELETE_ATTR"):
            writes = True
    asks = {"type", "__class__"} & {*loaded, *spoken} or "cls" in code.co_varnames
    of_classes = bool(writes and asks) or "setattr" in loaded
    for constant in code.co_consts:
        if isinstance(constant, str) and constant.isidentifier():
            spoken.add(constant)
        elif isinstance(constant, CodeType):
            inner = reads_of(constant)
            loaded |= inner.loaded
            stored |= inner.stored
            spoken |= inner.spoken
            owners |= inner.owners
            of_classes = of_classes or inner.of_classes
    named = [frozenset(names) for names in (loaded, stored, spoken, owners)]
    return Reads(named[0], named[1], named[2], named[3], of_classes)
