"""Names of sites as text: `module[.calls[k]][.port]`, or a module handle in place of the text.

    layers.5.mlp                    the module's output
    layers.5.mlp.input              its first argument; `.inputs` is all of them
    layers.5.attn.rope.calls[1]     its second call in one forward

Whether a name's last part is a port or a module that is called so, a model decides: a module wins.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from mlxgraph.errors import SiteNameError
from mlxgraph.graph.site import OUTPUT

PORTS = ("output", "input", "inputs")
_CALL = re.compile(r"(.+)\.calls\[(\d+)\]")


class SiteName(NamedTuple):
    """A name taken apart: the module's name or pattern, its call, and the port that was written."""

    module: str
    call: int
    port: str  # "" where none was written: the output
    numbered: bool = False  # whether the call's number was written

    @property
    def tail(self) -> str:
        """What tells apart two ports of one module, whoever wrote the names."""
        return (self.port or OUTPUT).rstrip("s") + (f"#{self.call}" if self.call else "")


def site_text(name: Any) -> str:
    """A site's name as text; a module handle's is its own.  Raises: SiteNameError."""
    if isinstance(name, str):
        return name
    if hasattr(type(name), "path"):
        return str(name)
    raise SiteNameError(name)


def taken_apart(text: str) -> SiteName:
    """A name in its parts, as far as text can tell."""
    head, _, port = text.rpartition(".")
    if not head or port not in PORTS:
        head, port = text, ""
    call = _CALL.fullmatch(head)
    if call is None:
        return SiteName(head, 0, port)
    return SiteName(call.group(1), int(call.group(2)), port, True)
