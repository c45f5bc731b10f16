"""`model.generate`: what it takes, and mlx-lm's loop behind it.

In: a prompt, max_tokens, options of mlx-lm.  Out: a Generation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.nn as nn

from mlxgraph.errors import InputError, OptionError
from mlxgraph.graph.graph import Graph, HasGraph, graph_of
from mlxgraph.model.generate_rows import check_options, pieces_of_rows
from mlxgraph.model.until import Until
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.trace.batch_generation import BatchGeneration
from mlxgraph.trace.cache_lengths import length_of
from mlxgraph.trace.generation import Generation, Loop
from mlxgraph.trace.inputs import params_of, prepare
from mlxgraph.trace.trace import Interventions

MAX_TOKENS = 256
WITHOUT_LIMIT = 4096  # new tokens of a text that is recorded without one
_NOT_TAKEN = ("stream", "input_embeddings", "draft_model", "num_draft_tokens", "max_tokens")
_OWN = ("max_tokens", "stop", "graph", "interventions", "params")


def generate(
    self: Any,
    prompt: Any,
    *,
    max_tokens: int = MAX_TOKENS,
    stop: str | Sequence[str] | None = None,
    interventions: Interventions | None = None,
    graph: Graph | HasGraph | None = None,
    params: dict[str, Any] | None = None,
    compile: bool = False,
    **options: Any,
) -> Generation:
    """Generate by mlx-lm's own loop, with edits and saves at its forwards.

    With a block, `with model.generate(...) as t:`, it runs when the block ends; without one, when
    its tokens, its text or a saved value is asked for.  Positions count from the start of the
    text, whichever of its tokens a forward is given; -1 is the newest token of each step.

    Args:
        prompt: a text, messages, or token ids (a list, or an array of shape (length,) or
            (1, length)); or a list of these, of any lengths: the block is written as for one of
            them, and done to each.  Several processes share the prompts of a list out, unless
            something draws random numbers or a sampler or processor is a function of your own:
            rank 0 does those.
        max_tokens: the most new tokens; -1 for no limit but the end of the text.
        stop: a text, or several, to stop at; the text ends before it.
        interventions: functions of one array by module name, applied first.
        graph: edits and saves to begin with, as for `trace`.
        params: values for params, by name; those of `graph` may also be given as keywords.
        compile: compile the forward of one new token where the caches are plain ones and it gives
            what it gives in Python, up to rounding; for long texts of small models.
        options: those of `mlx_lm.generate`: sampler, logits_processors, prompt_cache,
            max_kv_size, kv_bits, kv_group_size, quantized_kv_start, prefill_step_size,
            prompt_progress_callback.

    Returns: a Generation: `t.tokens`, `t.text`, `t.stream()`, and of each save one value a step.
    Raises: OptionError (a TypeError) for an option that mlx-lm does not know, InputError,
        NoTokenizerError, PartOfTextError for an operation over positions that forwards on parts of
        a text cannot do.

    Example:
        >>> with mg.tiny().generate("The capital of France is", max_tokens=3) as t:
        ...     h = t.layers[2].output.save()
        >>> h[0].shape, h[1].shape
        ((1, 6, 128), (1, 1, 128))
    """
    engine: Engine = self._engine
    graph = None if graph is None else graph_of(graph)
    named = graph.params if graph else ()
    given = {name: options.pop(name) for name in named if name in options}
    known = mlx_lm_options()
    for name in options:
        if name not in known:
            raise OptionError(name, [*_OWN, *known, *named])
    _check_values(options)
    most = _most(max_tokens)
    call = prepare((prompt,), engine)
    if call.tokens is None:
        raise InputError(
            "a generation goes on from a text.\n  Give a text, or token ids, or a list of them."
        )
    if not call.tokens.size:
        raise InputError("there are no tokens to go on from.\n  Give a text, or token ids.")
    values = {**params_of(params), **given}
    if call.tokens.shape[0] != 1 or _is_list_of_texts(prompt):
        check_options({**options, **({"compile": True} if compile else {})})
        rows = _rows(call)
        several = pieces_of_rows(engine, rows, most, _stops(stop), options, Callee)
        told = {**options, "stop": _stops(stop)}
        loop = Loop(call, 0, most, several, engine.tokenizer is not None, options=told)
        return BatchGeneration(engine, loop, interventions, graph, values)
    start = _start(options.get("prompt_cache"), engine.root)
    pieces = _pieces(engine, call.tokens[0], max_tokens, _stops(stop), options, start)
    told = {**options, "stop": _stops(stop)}
    loop = Loop(call, start, most, pieces, engine.tokenizer is not None, compile, told)
    return Generation(engine, loop, interventions, graph, values)


def _is_list_of_texts(prompt: Any) -> bool:
    """Whether a prompt is a list of texts, or of lists of ids, of which there may be one."""
    return isinstance(prompt, (list, tuple)) and all(
        isinstance(one, (str, list, tuple)) or bool(getattr(one, "shape", ())) for one in prompt
    )


def _rows(call: Call) -> list[list[int]]:
    """The token ids of each text, without padding."""
    assert call.tokens is not None and call.lengths is not None
    rows = zip(call.tokens.tolist(), call.lengths, strict=True)
    return [row[len(row) - length :] for row, length in rows]


def mlx_lm_options() -> list[str]:
    """The options of mlx-lm's own loop that a generation takes."""
    from mlx_lm.generate import generate_step

    own = inspect.signature(generate_step).parameters.values()
    return [p.name for p in own if p.kind is p.KEYWORD_ONLY and p.name not in _NOT_TAKEN]


def _most(max_tokens: Any) -> int:
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < -1:
        raise InputError(
            f"max_tokens={max_tokens!r} is no number of tokens.\n"
            "  Write max_tokens=20; -1 is until the model ends the text."
        )
    if max_tokens == 0:
        raise InputError(
            "max_tokens=0 generates nothing.\n  Write model.trace(prompt) for a forward alone."
        )
    return WITHOUT_LIMIT if max_tokens == -1 else max_tokens


def _stops(stop: Any) -> tuple[str, ...]:
    listed = [] if stop is None else [stop] if isinstance(stop, str) else stop
    stops = tuple(listed) if isinstance(listed, (list, tuple, set)) else (listed,)
    if not all(isinstance(one, str) and one for one in stops):
        raise InputError(
            f"stop={stop!r:.60} is no text to stop at.\n  Write stop='.', or a list; of a token id,"
            " its text, model.token_to_str(13)."
        )
    return stops


def _check_values(options: dict[str, Any]) -> None:
    """Raise InputError for a value with which mlx-lm's loop would come to nothing."""
    sampler, processors = options.get("sampler"), options.get("logits_processors")
    size = options.get("prefill_step_size", 1)
    if sampler is not None and not callable(sampler):
        raise InputError(
            f"sampler={sampler!r} is no function of log probabilities.\n"
            "  Write sampler=mlx_lm.sample_utils.make_sampler(temp=0.8)."
        )
    if callable(processors) or not all(map(callable, processors or ())):
        raise InputError(
            f"logits_processors={processors!r} is no list of functions of tokens and logits.\n"
            "  Write logits_processors=[function]."
        )
    if not isinstance(size, int) or size < 1:
        raise InputError(
            f"prefill_step_size={size!r} is no number of tokens.\n"
            "  Write prefill_step_size=512, or leave it out."
        )


def _start(cache: Any, root: Any) -> int:
    """How many tokens a prompt cache holds.  Raises: InputError where it does not say, and for one
    that is another model's."""
    found = 0 if cache is None else length_of(cache)
    if cache is not None and found is not None:
        from mlx_lm.models.cache import make_prompt_cache

        of_model = len(make_prompt_cache(root))
        if len(cache) != of_model:
            raise InputError(
                f"this prompt cache has {len(cache)} entries and the model asks for {of_model}:"
                " layers without one would be left out.\n"
                "  Write prompt_cache=mlx_lm.models.cache.make_prompt_cache(model.module)."
            )
    if found is None:
        raise InputError(
            "this prompt cache does not say how many tokens it holds, and positions count from the"
            " first.\n  Give the whole prompt, and leave prompt_cache= out."
        )
    return found


def _pieces(
    engine: Engine,
    tokens: Any,
    max_tokens: int,
    stops: tuple[str, ...],
    options: dict[str, Any],
    start: int,
) -> Callable[[Callable[..., Any]], Iterator[tuple[int, str]]]:
    """mlx-lm's loop, with something else called in place of the model."""
    from mlx_lm.generate import generate_step, stream_generate
    from mlx_lm.models.cache import make_prompt_cache

    def run(forward: Callable[..., Any]) -> Iterator[tuple[int, str]]:
        own = dict(options)
        given = own.get("prompt_cache")
        if given is not None and length_of(given) != start:
            raise InputError(
                f"this prompt cache held {start} tokens when the generation was made, and holds"
                f" {length_of(given)} as it begins: positions count from the first.\n"
                "  Write model.generate(...) again where it is to begin; what it gives is made when"
                " it is asked for, t.tokens."
            )
        if given is None:
            own["prompt_cache"] = make_prompt_cache(engine.root, own.get("max_kv_size"))
        if engine.tokenizer is None:
            found = generate_step(tokens, forward, max_tokens=max_tokens, **own)
            for n, (token, _) in enumerate(found):
                yield int(token), ""
                if n + 1 == max_tokens:
                    return
            return
        responses = stream_generate(
            Callee(forward), engine.tokenizer, tokens, max_tokens=max_tokens, **own
        )
        yield from _until(responses, stops)

    return run


class Callee(nn.Module):
    """A function that goes where mlx-lm takes a model."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


def _until(responses: Any, stops: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Tokens and pieces of text, up to a text to stop at."""
    until = Until(stops)
    for response in responses:
        yield response.token, until.add(response.text, response.finish_reason is not None)
        if until.stopped:
            return
