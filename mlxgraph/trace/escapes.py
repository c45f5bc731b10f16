"""Errors that a block ends with because a value went past the recording, said in full."""

from __future__ import annotations

from mlxgraph.errors import EscapedError
from mlxgraph.errors.elsewhere import METHODS_ELSEWHERE
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import holds_nothing
from mlxgraph.record.handle import is_handle


def explain_escape(error: BaseException) -> None:
    """`softmax(h).save()` with an escaped softmax fails as 'array has no attribute save'."""
    array = getattr(error, "obj", None)
    if not isinstance(error, AttributeError) or not isinstance(array, ARRAY):
        return
    if is_handle(array):  # a method that arrays do not have
        hint = METHODS_ELSEWHERE.get(error.name or "")
        if hint:
            error.add_note(f"Write `{hint}`.")
    elif holds_nothing(array):
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        line = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""
        # on the line that used it: its traceback, and not a second one beside it
        raise EscapedError(line).with_traceback(error.__traceback__) from None
