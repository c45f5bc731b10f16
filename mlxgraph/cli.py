"""The command line: `mlxgraph demo`, `mlxgraph tree`, `mlxgraph bench`, `mlxgraph --version`.

In: arguments.  Out: text on standard output, an exit status.
Never: does what the library cannot; every number here comes through the public API.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import mlx.core as mx

import mlxgraph as mg
from mlxgraph.analysis.in_turns import in_turns, spread
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
    except OSError as error:  # a graph's file that is not there
        print(f"mlxgraph: {error}", file=sys.stderr)
        return 1
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
    bench = commands.add_parser("bench", help="what a graph costs on a model, in turns with it")
    bench.add_argument(
        "model", nargs="?", help="a path or hub name; the embedded model if left out"
    )
    bench.add_argument("prompt", nargs="?", default=PROMPT, help="the text that it is run on")
    bench.add_argument(
        "--graph", metavar="FILE", help="of `graph.save`; an edit of one layer if left out"
    )
    bench.add_argument(
        "--repeat", type=int, help="rounds; as many as take some seconds if left out"
    )
    bench.add_argument("--json", action="store_true", help="print JSON")
    bench.set_defaults(command=_bench)
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


def _bench(given: argparse.Namespace) -> None:
    model = mg.InterpretableModel(given.model) if given.model else tiny()
    graph = mg.Graph.load(given.graph) if given.graph else _one_edit(model, given.prompt)
    table = mg.benchmark(model, graph, given.prompt, repeat=given.repeat)
    print(table.to_json() if given.json else table)


def _one_edit(model: mg.InterpretableModel, prompt: str) -> mg.Graph:
    """The last position scaled after the middle layer, and the logits there."""
    with model.trace(prompt) as trace:
        model.layers[len(model.layers) // 2].output[:, -1] *= 0.5
        model.output[:, -1].save()
    return trace.graph


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
    print("\nNext: README.md, docs/quickstart.md, `mlxgraph tree`, `mlxgraph bench`.")


def _show_predictions(model: Any, logits: mx.array, count: int = 3) -> None:
    print(f"   {PROMPT} ...")
    for token, _, chance in model.top(logits, count):
        bar = "█" * round(40 * chance)
        print(f"      {token:<10} {chance:6.1%}  {bar}")


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
    for name, times in in_turns(ways, 60).items():
        print(f"      {name:<37} {1e3 * spread(times.together).median:6.2f} ms")
