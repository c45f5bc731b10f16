"""Peak memory of collecting activations, for 16 and for 1,024 prompts.

    batched      batch_get_activations(..., batch_size=16)
    one trace    all prompts in one trace that saves whole layers, as one would first write it

The columns are MLX's peak above what was held before, and that less what the result itself takes.

Prediction: batched, the peak above the result is one batch's forward, the same for 16 prompts and
for 1,024, plus one layer's result while its batches are joined; in one trace it grows with the
number of prompts, 64-fold.

    python benchmarks/collection_memory.py
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from llamas import llama
from report import main, markdown

import mlxgraph as mg
from mlxgraph.analysis.in_turns import peak_memory

WIDTH, LAYERS, VOCABULARY = 64, 4, 1_000
COUNTS = (16, 1_024)
MIB = 1 << 20


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


def measured(quick: bool) -> list[dict[str, Any]]:
    """Bytes and seconds of each way, for each number of prompts."""
    model = mg.InterpretableModel(llama(WIDTH, LAYERS, heads=4, key_value_heads=2))
    found = []
    for name, way in {"batched": batched, "one trace": one_trace}.items():
        for count in (4, 16) if quick else COUNTS:
            rows = prompts(count)
            way(model, rows[:16])  # what is compiled and cached once is not the prompts' doing
            result = sum(array.nbytes for array in way(model, rows).values())
            peak = peak_memory(lambda way=way, rows=rows: way(model, rows), calls=1)
            found.append({"way": name, "prompts": count, "peak": peak, "result": result})
    return found


def tables(found: list[dict[str, Any]]) -> str:
    return markdown(
        ["", "prompts", "peak, MiB", "above the result, MiB"],
        [
            [row["way"], f"{row['prompts']:,}", f"{row['peak'] / MIB:.2f}",
             f"{(row['peak'] - row['result']) / MIB:.2f}"]
            for row in found
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main(__doc__, measured, tables)
