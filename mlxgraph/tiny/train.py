"""Train the embedded model: tokenizer, weights and the accuracy table, from one seed.

    python -m mlxgraph.tiny.train --seed 0 --out DIR

Nothing is written outside `DIR`; the package's own weights are replaced only by naming their
folder. `DIR` is then a model `mlx_lm.load` reads.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm import load
from mlx_lm.models.llama import Model, ModelArgs
from transformers import AutoTokenizer

from mlxgraph.tiny import corpus
from mlxgraph.tiny.evaluate import evaluate, format_table, logit_lens, repeatable_tokens
from mlxgraph.tiny.tokenizer import build_tokenizer, save_tokenizer

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "intermediate_size": 192,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "torch_dtype": "float32",
}
# Gradual unfreezing, from the top down: where in training each layer starts to learn, and how fast
# it then does. Without it the first layer answers everything a single attention step can reach,
# and nothing is left to see in the layers above.
STARTS = (0.2, 0.1, 0.0, 0.0, 0.0, 0.0)
PACES = (0.3, 0.4, 0.6, 0.8, 1.0, 1.0)
ROWS = 80
LONGEST = 44
LENS_PROMPTS = (
    "The capital of France is",
    "The Eiffel Tower is located in the city of",
    "When Mary and John went to the store, John gave a drink to",
)

# A row of token ids and, per token, whether predicting it counts in the loss.
Row = tuple[list[int], list[int]]


class Rows:
    """Draws training rows: one task per row, a sentence behind BOS and before EOS."""

    def __init__(self, tokenizer, seed: int) -> None:
        self.tokenizer = tokenizer
        self.rng = random.Random(seed)
        self.candidates = repeatable_tokens(tokenizer)

    def draw(self, progress: float) -> Row:
        """One row; `progress` in [0, 1] lets the repeated sequences grow longer."""
        kinds, weights = zip(*corpus.MIXTURE.items(), strict=True)
        kind = self.rng.choices(kinds, weights)[0]
        if kind == "induction":
            return self._induction(progress)
        # A sentence starts at BOS, as a prompt does.
        ids = self.tokenizer.encode(corpus.text(self.rng, kind))[: LONGEST - 1]
        ids.append(self.tokenizer.eos_token_id)
        return ids, [0] + [1] * (len(ids) - 1)

    def _induction(self, progress: float) -> Row:
        longest = 6 + round(8 * min(1.0, 2 * progress))
        period = self.rng.randint(2, longest)
        copies = max(2, min(4, 16 // period))
        ids = corpus.induction(self.rng, self.candidates, period, copies)
        # Only the copies can be predicted: the first pass, and the token that opens the second,
        # are noise.
        counted = [0] * (period + 2) + [1] * (len(ids) - period - 1)
        return [self.tokenizer.bos_token_id, *ids], counted


def batches(rows: list[Row], pad: int, parts: int = 3) -> list[tuple[mx.array, mx.array]]:
    """Rows sorted by length and padded in a few groups, so that little work goes to padding."""
    rows = sorted(rows, key=lambda row: len(row[0]))
    size = math.ceil(len(rows) / parts)
    out = []
    for start in range(0, len(rows), size):
        group = rows[start : start + size]
        width = len(group[-1][0])
        ids = np.full((len(group), width), pad, dtype=np.int32)
        counted = np.zeros((len(group), width), dtype=np.float32)
        for index, (row, mask) in enumerate(group):
            ids[index, : len(row)] = row
            counted[index, : len(row)] = mask
        out.append((mx.array(ids), mx.array(counted)))
    return out


def loss_of(model: nn.Module, groups: list[tuple[mx.array, mx.array]]) -> mx.array:
    """Mean cross entropy over the counted tokens of all groups."""
    total = mx.array(0.0)
    count = mx.array(0.0)
    for ids, counted in groups:
        losses = nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:])
        total = total + (losses * counted[:, 1:]).sum()
        count = count + counted[:, 1:].sum()
    return total / count


def schedule(peak: float, steps: int, warmup: int = 200):
    """Linear warm-up, then a cosine down to 1 % of the peak."""
    return optim.join_schedules(
        [
            optim.linear_schedule(peak / warmup, peak, warmup),
            optim.cosine_decay(peak, steps - warmup, peak / 100),
        ],
        [warmup],
    )


def pace(depth: int, progress: float) -> float:
    """How much of its update a layer takes."""
    return PACES[depth] if progress >= STARTS[depth] else 0.0


def update(model: Model, optimizer: optim.Optimizer, grads: dict, progress: float) -> None:
    """One optimiser step, with the layers' shares of it scaled by their pace."""
    # The pace scales the update and not the gradient, which Adam would normalise again.
    before = [layer.parameters() for layer in model.layers]
    optimizer.update(model, grads)
    for depth, (layer, old) in enumerate(zip(model.layers, before, strict=True)):
        share = pace(depth, progress)
        if share < 1.0:
            layer.update(tree_map(lambda a, b, s=share: a + s * (b - a), old, layer.parameters()))


def new_model(vocabulary: int) -> Model:
    """The untrained model."""
    model = Model(ModelArgs.from_dict({**CONFIG, "vocab_size": vocabulary}))
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            scale = 0.02 if isinstance(module, nn.Embedding) else module.weight.shape[1] ** -0.5
            # A layer starts as the identity, so that a frozen one does not get in the way.
            if name.endswith(("o_proj", "down_proj")):
                scale = 0.0
            module.weight = scale * mx.random.normal(module.weight.shape)
    mx.eval(model.parameters())
    return model


def save(model: Model, out: Path, vocabulary: int, ids: dict[str, int]) -> None:
    """Write the configuration and the float32 weights."""
    config = {**CONFIG, "vocab_size": vocabulary, **ids}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(out / "model.safetensors"), weights, metadata={"format": "mlx"})


def train(out: Path, seed: int, steps: int, peak: float, decay: float) -> None:
    """Train from scratch and leave the model in `out`."""
    random.seed(seed)
    np.random.seed(seed)
    mx.random.seed(seed)
    out.mkdir(parents=True, exist_ok=True)

    save_tokenizer(build_tokenizer(), out)
    # Read back through the wrapper users get, so that training sees exactly their token ids.
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    vocabulary = len(tokenizer)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = new_model(vocabulary)
    size = sum(value.size for _, value in tree_flatten(model.parameters()))
    _say(f"vocabulary {vocabulary}, parameters {size}")
    rows = Rows(tokenizer, seed)
    optimizer = optim.AdamW(schedule(peak, steps), betas=[0.9, 0.98], weight_decay=decay)
    step_fn = nn.value_and_grad(model, loss_of)
    started = time.time()
    for step in range(1, steps + 1):
        drawn = [rows.draw(step / steps) for _ in range(ROWS)]
        loss, grads = step_fn(model, batches(drawn, tokenizer.pad_token_id))
        grads, _ = optim.clip_grad_norm(grads, 1.0)
        update(model, optimizer, grads, step / steps)
        mx.eval(model.state, optimizer.state, loss)
        if step % 100 == 0:
            _say(f"step {step}  loss {loss.item():.3f}  {time.time() - started:.0f} s")
        if step % 1000 == 0:
            save(model, out, vocabulary, ids)
            _say(format_table(evaluate(model, tokenizer, limit=80)))
    save(model, out, vocabulary, ids)


def report(out: Path) -> None:
    """Load the model as users do and print what it can do."""
    model, tokenizer = load(str(out))[:2]
    scores = evaluate(model, tokenizer)
    _say(format_table(scores))
    for result in scores:
        for miss in result.misses[:5]:
            _say(f"missed: {miss}")
    for prompt in LENS_PROMPTS:
        _say(f"\n{prompt}")
        for depth, (token, share) in enumerate(logit_lens(model, tokenizer, prompt)):
            _say(f"  {'embedding' if depth == 0 else f'layer {depth}'}: {token!r} {share:.2f}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--peak", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--decay", type=float, default=0.05, help="weight decay")
    args = parser.parse_args()
    started = time.time()
    train(args.out, args.seed, args.steps, args.peak, args.decay)
    _say(f"trained in {time.time() - started:.0f} s")
    report(args.out)


if __name__ == "__main__":
    main()
