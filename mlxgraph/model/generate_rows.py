"""mlx-lm's batched loop, for prompts of any lengths.

In: rows of token ids, options.  Out: for each step the texts' new tokens and pieces of text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakSet

import mlx.core as mx

from mlxgraph.errors import InputError, OptionError
from mlxgraph.model.until import Pieces
from mlxgraph.run.engine import Engine
from mlxgraph.run.padded import NOISE

OF_ROWS = ("sampler", "logits_processors", "max_kv_size", "prefill_step_size")
Came = list[tuple[int, int, str]]


def check_options(options: dict[str, Any]) -> None:
    """Raise OptionError for an option that mlx-lm's batched loop does not take."""
    for name in options:
        if name not in OF_ROWS:
            raise OptionError(name, OF_ROWS, "several prompts at once")


def pieces_of_rows(
    engine: Engine,
    rows: Sequence[list[int]],
    most: int,
    stops: tuple[str, ...],
    options: dict[str, Any],
    model: Callable[[Callable[..., Any]], Any],
) -> Callable[[Callable[..., Any], Any], Iterator[Came]]:
    """The loop.  Args: model: makes what goes where mlx-lm takes a model."""
    from mlx_lm.generate import StopSequences
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    tokenizer = engine.tokenizer
    if tokenizer is not None and not isinstance(tokenizer, TokenizerWrapper):
        tokenizer = TokenizerWrapper(tokenizer)
    ends = [] if tokenizer is None else [[token] for token in tokenizer.eos_token_ids]

    def run(forward: Callable[..., Any], texts: Any) -> Iterator[Came]:
        callee, stop = model(forward), StopSequences(ends)
        if len({len(row) for row in rows}) > 1:
            _check_rows(engine.runner.tree, model)

        def batch(these: list[int]) -> Any:
            return _batch(callee, engine.root, these, most, stop, options)

        running: Any = None
        of_one = [k for k in texts.mine if len(rows[k]) == 1]
        for these in ([k for k in texts.mine if len(rows[k]) > 1], of_one):
            if not these:
                continue
            made = batch(these)
            texts.rows, texts.prompts = these, True
            if these is not of_one:
                made.prompt([list(rows[k][:-1]) for k in these])
            texts.prompts = False
            started = made.generate([[rows[k][-1]] for k in these])
            if running is None:
                running = started
            else:
                running.extend(started)
        written = [Pieces(tokenizer, stops) for _ in rows]
        while running is not None and len(running):
            texts.rows = list(running.uids)
            came: Came = []
            for response in running.next():
                text, token = response.uid, int(response.token)
                ended = response.finish_reason
                came.append((text, token, written[text].add(token, ended)))
            stopped = [k for k, text in enumerate(running.uids) if written[text].stopped]
            if stopped:
                running.filter([k for k in range(len(running)) if k not in stopped])
            yield came

    return run


def _batch(
    callee: Any, root: Any, these: list[int], most: int, stop: Any, options: dict[str, Any]
) -> Any:
    """mlx-lm's batch of some texts, by their numbers."""
    from mlx_lm.generate import PromptProcessingBatch
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.sample_utils import greedy_sampler

    caches = [make_prompt_cache(root, options.get("max_kv_size")) for _ in these]
    if not all(hasattr(one, "merge") for one in caches[0]):
        raise _refused(root, "its cache holds one text at a time")
    return PromptProcessingBatch(
        callee,
        list(these),
        caches,
        prefill_step_size=options.get("prefill_step_size", 2048),
        samplers=[options.get("sampler") or greedy_sampler] * len(these),
        logits_processors=[list(options.get("logits_processors") or ()) for _ in these],
        stop_sequences=[stop] * len(these),
        max_tokens=[most] * len(these),
    )


_checked: WeakSet[Any] = WeakSet()  # trees whose rows were found to be those of single runs
_LONG, _SHORT = [1, 0, 1, 1, 0, 1, 0, 0, 1], [1, 1, 0]


def _check_rows(tree: Any, model: Callable[[Callable[..., Any]], Any]) -> None:
    """Try on a few tokens whether the rows of a batch are those of single runs.

    Some models mask wrongly in mlx-lm's batches, and wrong numbers would be all that shows.
    Raises: InputError.
    """
    from mlx_lm.generate import StopSequences

    if tree in _checked:
        return
    root, seen = tree.root, []

    def forward(*args: Any, **kwargs: Any) -> Any:
        seen.append(root(*args, **kwargs))
        return seen[-1]

    def zero(logprobs: mx.array) -> mx.array:
        return mx.zeros(logprobs.shape[:1], mx.uint32)

    started = _batch(model(forward), root, [0, 1], 9, StopSequences(), {"sampler": zero})
    try:
        started.prompt([_LONG[:-1], _SHORT[:-1]])
        running = started.generate([_LONG[-1:], _SHORT[-1:]])
        running.next()
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        raise _refused(root, str(error).split("\n")[0]) from error
    for text, output in ((_SHORT, seen[-2]), ([*_SHORT, 0], seen[-1])):
        mine = output[1, -1].astype(mx.float32)
        alone = root(mx.array([text]))[0, -1].astype(mx.float32)
        largest = max(mx.abs(alone).max().item(), 1e-6)
        if mx.abs(mine - alone).max().item() > NOISE * largest:
            raise _refused(root, "the rows of mlx-lm's batch are not those of single runs")
    _checked.add(tree)


def _refused(root: Any, why: str) -> InputError:
    return InputError(
        f"texts of several lengths cannot be generated from at once with {type(root).__name__}:"
        f" {why}.\n  Generate from one after the other, or give texts of one length."
    )
