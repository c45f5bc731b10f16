"""`mlxgraph demo`: a small model edited from the inside."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlxgraph.analysis.in_turns import in_turns, spread
from mlxgraph.cli.arguments import PROMPT
from mlxgraph.cli.frame import Command
from mlxgraph.cli.output import has_colours, say, versions, width
from mlxgraph.tiny import tiny

OTHER = "The capital of Germany is"
LAYER = 1
BLOCK = f"""\
with model.trace("{OTHER}"):
    germany = model.layers[{LAYER}].output[:, 4].save()     # position 4 is the country

with model.trace("{PROMPT}") as trace:
    model.layers[{LAYER}].output[:, 4] = germany             # an edit inside the model
    logits = model.output[0, -1].save()                # what it says next
"""


def _run(given: argparse.Namespace) -> None:
    model = tiny()
    layers, width = len(model.layers), model.parameters()["model.norm.weight"].size
    say(f"{versions()}, on the {mx.default_device().type.name}.")
    say(f"The embedded model: a trained Llama of {layers} layers, width {width}.\n")

    say("1. What does the model say?\n")
    with model.trace(PROMPT):
        before = model.output[0, -1].save()
    _show_predictions(model, before)

    say("\n2. Now with what it thought of Germany in the place of France, one edit inside:\n")
    say(textwrap.indent(BLOCK, "       "))
    made: dict[str, Any] = {"model": model}
    exec(compile(BLOCK, "demo", "exec"), made)  # what is shown is what runs, line numbers and all
    _show_predictions(model, made["logits"])

    say("\n3. The block ran nothing while it was written: it recorded a graph, a value to keep,")
    say("   print, compose and run on other inputs.  print(trace.graph):\n")
    say(textwrap.indent(str(made["trace"].graph), "       "))

    say("\n4. Where is the country, layer by layer?  A sweep of edits: Germany's run, each time")
    say("   with one state of France's.  100: it says Paris again; 0: it still says Berlin.\n")
    _show_map(model)

    say("\n5. The graph became one forward pass.  Time for that pass, logits included:\n")
    _show_times(model, made["germany"])
    say('\nNext: README.md, docs/quickstart.md, `mlxgraph lens tiny "The capital of France is"`.')


def _show_map(model: Any) -> None:
    effects = model.activation_patching(
        PROMPT, OTHER, component="output", positions="all", metric="logit_diff",
        targets=(" Paris", " Berlin"), progress=False,
    )  # fmt: skip
    text = effects.to_text(min(width(), 80) - 6, ansi=has_colours())
    say(textwrap.indent(text, "      "))
    say("\n   First at the country's own position, later at the last one: attention moved it.")


def _show_predictions(model: Any, logits: mx.array, count: int = 3) -> None:
    say(f"   {PROMPT} ...")
    for token, _, chance in model.top(logits, count):
        bar = "█" * round(40 * chance)
        say(f"      {token:<10} {chance:6.1%}  {bar}")


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
        say(f"      {name:<37} {1e3 * spread(times.together).median:6.2f} ms")


COMMAND = Command(
    "demo",
    "edit a small model from the inside and see",
    "A first look, on the embedded model: predictions, an edit, its graph, a map, times.",
    ("mlxgraph demo",),
    lambda parser: None,
    _run,
)
