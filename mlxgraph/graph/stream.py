"""Names of the residual stream at a layer, and what the stream between its parts is the sum of.

    layers.3.resid_pre     what the layer is given: its first input
    layers.3.resid_mid     the stream between attention and the MLP, which no module gives
    layers.3.resid_post    what the layer gives: its output

The first and the last are other names of sites.  `resid_mid` is a site of its own while a block is
open, and a graph never has it: there it is the sum that it is, and a write to it is one to the last
part of the sum (`record.sums`).  Which sum that is, a forward shows (`run.stream`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mlxgraph.errors import UnknownSiteError
from mlxgraph.graph.site import Site

RESID_PRE, RESID_MID, RESID_POST = STREAM = ("resid_pre", "resid_mid", "resid_post")
_MIDDLE = f".{RESID_MID}"


class Term(NamedTuple):
    """One part of a sum: a site's value, or the array in it that keys lead to, by a number."""

    site: Site
    keys: tuple[Any, ...] = ()
    scale: float = 1.0

    def moved(self, prefix: str) -> Term:
        """The same of one of several prompts."""
        return self._replace(site=self.site._replace(path=prefix + self.site.path))


class Sum(NamedTuple):
    """What `resid_mid` of a layer is: the layer's input, and what parts add to it, in order.

    Attributes: terms: the last one takes what is written; value, when: as a census has them.
    """

    terms: tuple[Term, ...]
    value: Any = None
    when: float = -1.0

    def moved(self, prefix: str) -> Sum:
        """The same of one of several prompts."""
        return self._replace(terms=tuple(term.moved(prefix) for term in self.terms))


def is_middle(path: str) -> bool:
    """Whether a path is that of a `resid_mid`, as far as text can tell."""
    return path.endswith(_MIDDLE)


def owner_of(path: str) -> str:
    """The layer of a `resid_mid`."""
    return path.removesuffix(_MIDDLE)


def is_layer(path: str) -> bool:
    """Whether a module can be a layer: one of a list."""
    return path.rpartition(".")[2].isdigit()


def no_middle(layer: str, reason: str) -> UnknownSiteError:
    """The error for a layer in which no forward shows such a sum.  Args: reason: why."""
    advice = (
        f"It is the stream between attention and the MLP, and {reason}.\n"
        f"  Write {RESID_PRE!r} or {RESID_POST!r} for what the layer is given and gives, or edit"
        " what 'attn' or 'mlp' gives."
    )
    return UnknownSiteError(
        RESID_MID, (), layer or "the model", kind="value", advice=advice, near=[]
    )
