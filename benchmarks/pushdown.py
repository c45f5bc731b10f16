"""What the slice push-down saves: logits of the last position, head on one position or on all.

    python benchmarks/pushdown.py [--length 512] [--vocabulary 32000] [--width 256] [--layers 4]

Predicted: without it the head costs length x width x vocabulary multiplications, of which one
position's are used; what is saved is that share of the forward.

Found, two cores of a shared Linux machine, OpenBLAS, the default sizes: 205 ms with the push-down
off, 150 ms with it on, tied and untied alike; the bare model, sliced after, 204 ms.  That is the
head's 55 ms and nothing else.  With the wheel's own BLAS, whose products are slow, and 128 tokens:
1,666 ms off, 500 ms on, and not a bit of difference between the results.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import mlx.core as mx
from mlx_lm.models.llama import Model, ModelArgs

import mlxgraph as mg


def make_model(options: argparse.Namespace, tied: bool) -> Model:
    """A random Llama."""
    mx.random.seed(0)
    model = Model(
        ModelArgs(
            model_type="llama",
            hidden_size=options.width,
            num_hidden_layers=options.layers,
            intermediate_size=3 * options.width,
            num_attention_heads=8,
            num_key_value_heads=4,
            rms_norm_eps=1e-5,
            vocab_size=options.vocabulary,
            tie_word_embeddings=tied,
        )
    )
    mx.eval(model.parameters())
    return model


def seconds(job: Callable[[], mx.array]) -> float:
    """The time of one call, the result computed."""
    start = time.perf_counter()
    mx.eval(job())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in {
        "length": 512, "vocabulary": 32_000, "width": 256, "layers": 4, "rounds": 5
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    tokens = mx.arange(options.length)[None] % options.vocabulary
    print(f"{options.layers} layers of width {options.width}, {options.length} tokens,")
    print(f"vocabulary {options.vocabulary:,}: milliseconds, medians of {options.rounds}")
    for tied in (True, False):
        module = make_model(options, tied)
        model = mg.InterpretableModel(module)
        with model.trace(tokens) as t:
            model.layers[0].output *= 1.01
            model.output[:, -1].save("logits")
        off, on = model.compile(t.graph, optimize=False), model.compile(t.graph)
        ways = {
            "bare model, sliced after": lambda module=module: module(tokens)[:, -1],
            "pass, push-down off": lambda off=off: off(tokens)["logits"],
            "pass, push-down on": lambda on=on: on(tokens)["logits"],
        }
        gap = mx.abs(ways["pass, push-down on"]() - ways["pass, push-down off"]()).max().item()
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, job in ways.items():
                times[name].append(seconds(job) * 1e3)
        print(f"\n{'tied' if tied else 'untied'} head (largest difference {gap:.1e})")
        for name, found in times.items():
            print(f"  {name:26}{statistics.median(found):>10.1f}")


if __name__ == "__main__":
    main()
