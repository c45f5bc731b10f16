"""Peak memory of collecting activations, for 16 and for 1,024 prompts.

    batched      batch_get_activations(..., batch_size=16)
    one trace    all prompts in one trace that saves whole layers, as one would first write it

The columns are MLX's peak above what was held before, and that less what the result itself takes.

Prediction: batched, the peak above the result is one batch's forward, the same for 16 prompts and
for 1,024, plus one layer's result while its batches are joined; in one trace it grows with the
number of prompts, 64-fold.

Result (MLX 0.32, CPU): batched, 4.4 MiB above the result for 16 prompts and 3.8 MiB for 1,024
(whose batches hold prompts of one length, and so less padding); in one trace 4.9 MiB and 255 MiB,
52-fold.

    python benchmarks/collection_memory.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.models.llama import Model, ModelArgs

import mlxgraph as mg

WIDTH, LAYERS, VOCABULARY = 64, 4, 1_000
COUNTS = (16, 1_024)
MIB = 1 << 20


def llama() -> Model:
    """A small random mlx-lm Llama."""
    mx.random.seed(0)
    made = Model(
        ModelArgs(
            model_type="llama",
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            intermediate_size=3 * WIDTH,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            vocab_size=VOCABULARY,
        )
    )
    mx.eval(made.parameters())
    return made


def prompts(count: int) -> list[list[int]]:
    """Token rows of 17 to 32 tokens."""
    return [[(31 * n + 7 * k) % VOCABULARY for k in range(17 + n % 16)] for n in range(count)]


def batched(model: mg.InterpretableModel, rows: list[list[int]]) -> dict[str, mx.array]:
    """The last token of each layer, a batch at a time."""
    return mg.batch_get_activations(model, rows, batch_size=16)


def one_trace(model: mg.InterpretableModel, rows: list[list[int]]) -> dict[str, mx.array]:
    """The same from one trace of everything, cut down to the last token afterwards."""
    with model.trace(rows):
        whole = [layer.output.save() for layer in model.layers]
    mx.eval(whole)
    found = {f"layer_{n}": mx.contiguous(layer[:, -1]) for n, layer in enumerate(whole)}
    mx.eval(found)
    return found


def measure(collect: Callable[[], dict[str, Any]]) -> tuple[float, float, float]:
    """Peak bytes above what was held before, bytes of the result, seconds."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    start = time.perf_counter()
    found = collect()
    seconds = time.perf_counter() - start
    return mx.get_peak_memory() - before, sum(a.nbytes for a in found.values()), seconds


def main() -> None:
    """Print the table."""
    model = mg.InterpretableModel(llama())
    print(f"{'':>12}{'prompts':>9}{'peak':>12}{'above result':>14}{'time':>10}")
    for name, way in {"batched": batched, "one trace": one_trace}.items():
        for count in COUNTS:
            rows = prompts(count)
            way(model, rows[:16])  # what is compiled and cached once is not the prompts' doing
            peak, result, seconds = measure(lambda way=way, rows=rows: way(model, rows))
            print(
                f"{name:>12}{count:>9}{peak / MIB:>8.2f} MiB{(peak - result) / MIB:>10.2f} MiB",
                end="",
            )
            print(f"{seconds:>8.2f} s")


if __name__ == "__main__":
    main()
