"""Which of mlx-lm's loops calls a model, and what it has of the prompt by then.

mlx-lm gives a model all of a prompt but its last token, in chunks, and then that one; it says so to
nobody, and the code that calls is where it can be told.  And which of mlx-lm's own functions do
to each row of a batch what they do to it alone.

mlx-lm begins with the next token before anybody asks for it, on a stream of its own: when a loop
ends, one more forward may be under way.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import mlx.core as mx

_LOOPS = "mlx_lm.generate"
_STEPS = ("generate_step.<locals>._step", "GenerationBatch._step")
_ROWS = "mlx_lm.sample_utils"
_FAR = 60  # frames between a loop and a module's call


def still_to_come() -> int | None:
    """How many tokens of the prompt come after those of this call, as far as mlx-lm's code says.

    `_step` of `generate_step` and of `GenerationBatch` gives the newest token.  `generate_step`
    itself gives chunks, and keeps how long the prompt is; `PromptProcessingBatch.prompt` gives
    chunks of all that is known but the last token, and what comes later it does not know.

    Returns: 0 for the newest token; -1 for one or more; None where another loop calls.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_FAR):
        if frame is None:
            return None
        if frame.f_globals.get("__name__") == _LOOPS:
            name = frame.f_code.co_qualname
            if name in _STEPS:
                return 0
            if name == "generate_step":
                return _of_chunk(frame)
            if name == "PromptProcessingBatch.prompt":
                return -1
            if not name.endswith("_model_call"):
                return None
        frame = frame.f_back
    return None


def _of_chunk(frame: FrameType) -> int:
    held = frame.f_locals
    given = held["prompt_processed_tokens"] + held["n_to_process"]
    return int(held["total_prompt_tokens"] - given)


def is_of_one_row(function: Any) -> bool:
    """Whether a sampler or a processor of logits does to a row the same whatever is beside it, and
    draws nothing: mlx-lm's greedy sampler, and what its `make_...` give, but for its samplers."""
    name = getattr(function, "__qualname__", "")
    if getattr(function, "__module__", "") != _ROWS:
        return False
    if name.startswith("make_sampler"):  # older ones have no other name for the greedy one
        return getattr(function, "__closure__", ()) is None
    return name.startswith("make_") or name == "greedy_sampler"


def told_of(function: Any) -> list[Any]:
    """What tells one of these from another: its name, and what it was made with."""
    cells = getattr(function, "__closure__", None) or ()
    return [getattr(function, "__qualname__", ""), *(cell.cell_contents for cell in cells)]


def settle() -> None:
    """Wait until nothing is under way that mlx-lm's loops have begun."""
    own = getattr(sys.modules.get(_LOOPS), "generation_stream", None)
    for stream in (own, mx.default_stream(mx.default_device()), mx.default_stream(mx.cpu)):
        if stream is not None:
            mx.synchronize(stream)
