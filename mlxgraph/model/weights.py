"""Weights as matrices of floats: of a module, and of a token's row in the unembedding.

In: a model, a module's name or a token.  Out: arrays, lazy.  Never: changes the model.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.analysis.inputs import first_array
from mlxgraph.analysis.unembed import check_head
from mlxgraph.errors import NoMatrixError, UnembeddingError, VocabularyError
from mlxgraph.errors.source_line import here
from mlxgraph.mlx_facts.matrices import matrix_of, may_have_matrix, part_of_matrix
from mlxgraph.mlx_facts.processes import unites
from mlxgraph.record.gather import gather
from mlxgraph.run.parts import holds_part
from mlxgraph.trace.open_block import refreshed
from mlxgraph.trace.texts import one_token

MOST_NAMED = 6  # modules that an error names
MOST_STATES = 6  # values that a tied head may be on: the last of the forward
_heads: WeakKeyDictionary[Any, tuple[str, int]] = WeakKeyDictionary()  # by tree of modules
ORDER = 0.02  # of the logits' range: what rounding may do to their order


class Head(NamedTuple):
    """The module that scores tokens, and how many it scores."""

    path: str
    module: Any
    size: int


def weight(model: Any, name: Any) -> mx.array:
    """A module's matrix as floats: dequantised, with any LoRA or DoRA added.

    Args: name: of a linear module, an embedding, or experts: in any form that names a module, or a
        module handle.
    Returns: shape (out, in), so that the module computes `x @ weight.T` and adds its bias; of an
        embedding (vocabulary, width); of the experts of a layer (experts, out, in).  In float32,
        which holds bfloat16, float16 and dequantised values exactly (float64 stays); lazy; a copy,
        of the weights as they are now.  Edits on the model are edits of activations: the matrix is
        the same.  Of a projection that unites the parts of a sharded model, all of it, computed:
        every rank asks.
    Raises: NoMatrixError (a ValueError) for a module that multiplies by no one matrix, such as a
        norm, a convolution or a block, or of which a rank has some rows; UnknownSiteError,
        SiteNameError.

    Example:
        >>> model.weight("layers.3.attn.o_proj").shape
    """
    handle = model[name]
    module = handle.module
    tree = model._engine.runner.tree
    if tree.is_spread and unites(module):
        return gather(part_of_matrix(module), -1)
    if tree.is_spread and holds_part(tree, handle.path):
        why = "holds this rank's part of a matrix, and does not say which part"
        raise NoMatrixError(handle.path, type(module).__name__, why)
    found = matrix_of(module)
    if found is None:
        raise NoMatrixError(
            handle.path, type(module).__name__, _reason(module), _with_matrices(handle.path, module)
        )
    return found


def _reason(module: nn.Module) -> str:
    if not any(isinstance(value, mx.array) for value in module.values()):
        return "has no matrix of its own"
    return "does not multiply by one matrix"


def _with_matrices(path: str, module: nn.Module) -> list[str]:
    """Some modules below one that may have a matrix."""
    below = [name for name, m in module.named_modules() if name and may_have_matrix(m)]
    names = [f"{path}.{name}" if path else name for name in sorted(below, key=len)]
    return names[:MOST_NAMED] + (["..."] if len(names) > MOST_NAMED else [])


def unembed(model: Any, token: int | str) -> mx.array:
    """The direction of a token's logit: its row of the unembedding.

    `h @ model.unembed(token)` is the token's logit for a state `h` after the final norm, before any
    bias of the head, cap or scale of the logits.  The head is found once, by a forward on one
    token, of which the last norm and the head alone are computed.

    Args: token: an id, or the text of a single token, such as " Paris".
    Returns: shape (width,), in float32, lazy; of a tied, untied, quantised or adapted head.
    Raises: TokenError for a text of several tokens, VocabularyError (an IndexError) for an id that
        the head has no row for, UnembeddingError for a model without a head, or one whose logits do
        not come of one matrix; NoTokenizerError.

    Example:
        >>> model.unembed(" Paris") - model.unembed(" London")
    """
    number = model.single_token(token) if isinstance(token, str) else one_token(token)
    head = head_of(model)
    if not 0 <= number < head.size:
        raise VocabularyError(number, head.path, head.size, str(here()))
    row = matrix_of(head.module, slice(number, number + 1))
    if row is None or row.ndim != 2:
        raise _no_head(f"{head.path} ({type(head.module).__name__}) multiplies by no one matrix")
    return row[0]


def head_of(model: Any) -> Head:
    """The module that makes a model's logits: found once, until the tree of modules is another.

    Raises: UnembeddingError.
    """
    tree = refreshed(model._engine).runner.tree
    if tree not in _heads:
        _heads[tree] = _found(model.without_edits())
    path, size = _heads[tree]
    return Head(path, model[path].module, size)


def _found(plain: Any) -> tuple[str, int]:
    """The path of the head of a model without edits, and how many tokens it scores."""
    tokens = mx.zeros((1, 1), dtype=mx.int32)
    with plain.trace(tokens) as trace:
        size = first_array(plain.output).shape[-1]
    called = [path for name in trace.activations if (path := plain[name].path)]
    heads = [path for path in called if _scores(plain[path].module, size)][-1:]
    tied = _tied(plain, size)
    last = plain.layers[-1].path
    with plain.trace(tokens):
        if last in called:  # no layer is computed where its output is another one
            stream = first_array(plain[last].output)
            check_head(plain, first_array(plain.output), stream.shape[-1])
            stream[:] = mx.cos(mx.arange(stream.size, dtype=mx.float32)).reshape(stream.shape)
        names = [*heads, *called[-MOST_STATES:]]
        values = {name: first_array(plain[name].output).save() for name in names}
        logits = first_array(plain.output).save()
    for path in heads:
        if _same_order(values[path], logits):
            return path, size
    for path in tied:
        module = plain[path].module
        states = [value for value in values.values() if _fits(value, module)]
        if any(_same_order(module.as_linear(state), logits) for state in states):
            return path, size
    if heads or tied:
        raise _no_head(f"the logits are not those of {', '.join([*heads, *tied])} as it is")
    raise _no_head("its forward calls no module that scores tokens, and has no embedding of them")


def _fits(state: Any, module: Any) -> bool:
    """Whether a value may be a state that a tied embedding scores."""
    inner = module["embedding"] if "embedding" in module else module
    weight = inner["weight"]
    width = weight.shape[1] * 32 // inner.bits if "scales" in inner else weight.shape[1]
    return isinstance(state, mx.array) and state.ndim == 3 and state.shape[-1] == width


def _scores(module: nn.Module, size: int) -> bool:
    """Whether a module may give so many scores."""
    if not may_have_matrix(module) or hasattr(type(module), "as_linear"):
        return False
    inner = module["linear"] if "linear" in module else module
    rows = inner.get("weight")
    return isinstance(rows, mx.array) and rows.ndim == 2 and size in rows.shape


def _tied(model: Any, size: int) -> list[str]:
    """The embedding whose rows may be the unembedding's too."""
    for path, module in model.named_modules():
        if hasattr(type(module), "as_linear"):
            inner = module["embedding"] if "embedding" in module else module
            if inner["weight"].shape[0] == size:
                return [str(path)]
    return []


def _same_order(own: mx.array, logits: mx.array) -> bool:
    """Whether logits are scores of a matrix, but for a cap or a scale."""
    if own.size != logits.size:
        return False
    logits = logits.reshape(-1).astype(mx.float32)[mx.argsort(own.reshape(-1))]
    highest = mx.cummax(logits)
    return bool(((highest - logits).max() <= ORDER * (logits.max() - logits.min())).item())


def _no_head(why: str) -> UnembeddingError:
    return UnembeddingError(
        f"no row of a head gives a token's logit: {why}.\n"
        "  Where you know the matrix, write model.weight(name)[token], or model.parameters()[name]."
    )
