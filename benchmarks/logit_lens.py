"""What a logit lens of all layers and positions costs, in plain forwards.

Ways, all giving the top token of each layer at each position:

    forward   one plain forward, for scale
    lens      model.logit_lens(tokens): one traced pass, one norm and one product for all rows
    loop      one norm, one product and one look at the result for each layer and position

Prediction: the lens does the arithmetic of one forward and of (layers - 1) more heads, which the
column `by arithmetic` counts; it should take about that many forwards.  The loop does the same
arithmetic in products of one row, each with a wait, and should take several times as long.

Result (MLX 0.32, 2 CPU cores, in forwards; median of 5).  With OpenBLAS in place of the wheel's
reference BLAS: lens 1.3, 1.4 and 2.1 where the arithmetic says 2.5, 2.1 and 4.3 (its one large
product is more efficient than the forward's small ones), loop 3.3, 4.2 and 10.7.  With the
reference BLAS, for which a large product is no better than many small ones, lens 2.1, 2.2 and 4.1
and loop 1.7, 2.6 and 3.9: there the prediction about the loop was wrong, and the lens costs just
its arithmetic.

    python benchmarks/logit_lens.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.models.llama import Model, ModelArgs

import mlxgraph as mg

ROUNDS = 5
LENGTH = 16
SIZES = [(128, 6, 4_000), (256, 12, 4_000), (256, 12, 16_000)]  # width, layers, vocabulary


def llama(width: int, layers: int, vocabulary: int) -> Model:
    """A random mlx-lm Llama with an untied head."""
    mx.random.seed(0)
    made = Model(
        ModelArgs(
            model_type="llama",
            hidden_size=width,
            num_hidden_layers=layers,
            intermediate_size=3 * width,
            num_attention_heads=8,
            num_key_value_heads=4,
            rms_norm_eps=1e-5,
            vocab_size=vocabulary,
            tie_word_embeddings=False,
        )
    )
    mx.eval(made.parameters())
    return made


def by_loop(model: mg.InterpretableModel, tokens: mx.array) -> list[list[int]]:
    """The lens as one would first write it."""
    with model.trace(tokens):
        states = [layer.output.save() for layer in model.layers]
    norm, head = model.module.model.norm, model.module.lm_head
    return [
        [mx.argmax(head(norm(state[0, position]))).item() for position in range(LENGTH)]
        for state in states
    ]


def arithmetic(width: int, layers: int, vocabulary: int) -> float:
    """The lens's multiplications over a forward's (attention to so few tokens left out)."""
    block = width * width * (1 + 0.5 + 0.5 + 1) + 3 * width * 3 * width
    forward = layers * block + width * vocabulary
    return (forward + (layers - 1) * width * vocabulary) / forward


def in_turns(ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each way, taken in turns so that a busy moment hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(), way()
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Print the table."""
    print(f"{'width x layers, vocabulary':>28} {'forward':>9} {'by arithmetic':>14}", end="")
    print(f"{'lens':>8} {'loop':>8}   (in forwards)")
    for width, layers, vocabulary in SIZES:
        module = llama(width, layers, vocabulary)
        model = mg.InterpretableModel(module)
        tokens = mx.random.randint(0, vocabulary, (1, LENGTH))
        lens = model.logit_lens(tokens)
        assert [[p[0][0] for p in lens[n]] for n in range(layers)] == by_loop(model, tokens)
        seconds = in_turns(
            {
                "forward": lambda module=module, tokens=tokens: mx.eval(module(tokens)),
                "lens": lambda model=model, tokens=tokens: model.logit_lens(tokens),
                "loop": lambda model=model, tokens=tokens: by_loop(model, tokens),
            }
        )
        size = f"{width} x {layers}, {vocabulary}"
        forward = seconds["forward"]
        print(f"{size:>28} {1000 * forward:>6.1f} ms", end="")
        print(f"{arithmetic(width, layers, vocabulary):>14.1f}", end="")
        print(f"{seconds['lens'] / forward:>8.1f} {seconds['loop'] / forward:>8.1f}")


if __name__ == "__main__":
    main()
