"""The command line: `mlxgraph demo`, `mlxgraph tree`, `mlxgraph --version`.

In: arguments.  Out: text on standard output, an exit status.
Never: does what the library cannot; every number here comes through the public API.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import mlx.core as mx

import mlxgraph as mg
from mlxgraph.errors import MLXGraphError
from mlxgraph.graph.values import dtype_name
from mlxgraph.tiny import tiny

PROMPT = "The capital of France is"
OTHER = "The capital of Germany is"
LAYER = 1
BLOCK = f"""\
with model.trace("{OTHER}"):
    germany = model.layers[{LAYER}].output[:, 4].save()     # position 4 is the country

with model.trace("{PROMPT}") as trace:
    model.layers[{LAYER}].output[:, 4] = germany             # an edit inside the model
    logits = model.output[0, -1].save()                # what it says next
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.  Returns: the exit status, 0 where all went well."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help()
        return 0
    try:
        given.command(given)
    except MLXGraphError as error:
        print(f"mlxgraph: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `mlxgraph tree | head`: who reads has seen enough
        sys.stderr.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlxgraph", description=mg.__doc__)
    parser.add_argument("--version", action="version", version=_versions())
    commands = parser.add_subparsers(title="commands")
    parser.set_defaults(command=None)
    demo = commands.add_parser("demo", help="edit a small model from the inside and see")
    demo.set_defaults(command=_demo)
    tree = commands.add_parser("tree", help="list the sites of a model, with shapes")
    tree.add_argument("model", nargs="?", help="a path or hub name; the embedded model if left out")
    tree.add_argument("--prompt", default=PROMPT, help="the text that gives the shapes")
    tree.set_defaults(command=_tree)
    return parser


def _versions() -> str:
    return f"mlxgraph {mg.__version__}, mlx {version('mlx')}"


def _tree(given: argparse.Namespace) -> None:
    model = mg.InterpretableModel(given.model) if given.model else tiny()
    with model.trace(given.prompt) as trace:
        pass
    width = max(map(len, trace.activations))
    for name, value in trace.activations.items():
        print(f"{name:{width}}  {_shapes(value)}")


def _shapes(value: Any) -> str:
    if isinstance(value, mx.array):
        return f"{value.shape} {dtype_name(value.dtype)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shapes, value))}]"
    return type(value).__name__


def _demo(given: argparse.Namespace) -> None:
    model = tiny()
    layers, width = len(model.layers), model.parameters()["model.norm.weight"].size
    print(f"{_versions()}, on the {mx.default_device().type.name}.")
    print(f"The embedded model: a trained Llama of {layers} layers, width {width}.\n")

    print("1. What does the model say?\n")
    with model.trace(PROMPT):
        before = model.output[0, -1].save()
    _show_predictions(model, before)

    print("\n2. Now with what it thought of Germany in the place of France, one edit inside:\n")
    print(textwrap.indent(BLOCK, "       "))
    made: dict[str, Any] = {"model": model}
    exec(compile(BLOCK, "demo", "exec"), made)  # what is shown is what runs, line numbers and all
    _show_predictions(model, made["logits"])

    print("\n3. The block ran nothing while it was written: it recorded a graph, a value to keep,")
    print("   print, compose and run on other inputs.  print(trace.graph):\n")
    print(textwrap.indent(str(made["trace"].graph), "       "))

    print("\n4. The graph became one forward pass.  Time for that pass, logits included:\n")
    _show_times(model, made["germany"])
    print("\nNext: README.md, docs/quickstart.md, `mlxgraph tree`.")


def _show_predictions(model: Any, logits: mx.array, count: int = 3) -> None:
    chances = mx.softmax(logits, axis=-1)
    print(f"   {PROMPT} ...")
    for token in mx.argsort(-chances)[:count].tolist():  # type: ignore[union-attr]
        chance = chances[token].item()
        bar = "█" * round(40 * chance)
        print(f"      {model.token_to_str(token):<10} {chance:6.1%}  {bar}")


def _show_times(model: Any, germany: mx.array) -> None:
    tokens = mx.array([model.encode(PROMPT)])
    module = model.module
    compiled = mx.compile(lambda x: module(x)[0, -1], inputs=module.state)

    def traced() -> mx.array:
        with model.trace(tokens):
            model.layers[LAYER].output[:, 4] = germany
            logits = model.output[0, -1].save()
        return logits

    ways: dict[str, Callable[[], mx.array]] = {
        "the bare model": lambda: module(tokens)[0, -1],
        "the bare model under mx.compile": lambda: compiled(tokens),
        "the traced edit, recording included": traced,
    }
    for name, times in _interleaved(ways).items():
        print(f"      {name:<37} {1e3 * times:6.2f} ms")


def _interleaved(ways: dict[str, Callable[[], mx.array]], rounds: int = 60) -> dict[str, float]:
    """Median seconds of each way, measured in turns so that a busy moment hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 5):
        for name, way in ways.items():
            start = time.perf_counter()
            mx.eval(way())
            if number >= 5:  # the first rounds compile
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}
