"""A sweep is a loop on every architecture of mlx-lm: layers, parts, heads, and late positions.

A few run always, the others in the slow sweep.  What `configs` leaves out is left out here, and
phi3small: its bare forward masks tokens beyond 100,000, and ends the process where there are fewer.
"""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlxgraph.errors import MLXGraphError
from mlxgraph.sweep import split
from tests.architectures import configs
from tests.architectures.states import Case, architectures, first_array
from tests.sweep.alike import loop, off, ways

QUICK = ("llama", "gpt2", "mamba")
LEFT_OUT = {*configs.NOT_HERE, "phi3small"}
NAMES = [name for name in architectures() if name not in LEFT_OUT]

ALONE, BATCHED, GROWN, LATER = WAYS = ("alone", "batched", "grown", "later")
LESS = {  # what shares less than a batch that grows, or than the rest of its model
    "afm7": {"output": GROWN},
    "dbrx": {"output": ALONE, "mlp": ALONE},  # it looks at values
    "iquestloopcoder": {"mlp": BATCHED},
    "kimi_k3": dict.fromkeys(("output", "attn", "mlp", "heads"), BATCHED),
    "longcat_flash": {"mlp": GROWN},
}
NOT_LATER = """
    afmoe baichuan_m1 bailing_hybrid bailing_moe_linear bailing_moe_v3 cohere2 deepseek_v41 exaone4
    exaone_moe falcon_h1 gear gemma3 gemma3_text gemma3n gemma4 gemma4_text gpt_oss granitemoehybrid
    jamba kimi_linear laguna lfm2 lfm2-vl lfm2_moe llama4 longcat_flash_ngram mamba mamba2 mellum
    mimo_v2_flash ministral3 muse_glimmer nemotron_h olmo3 olmo_hybrid plamo2 plamo3 qwen3_5
    qwen3_5_moe qwen3_next recurrent_gemma rwkv7 spark2_5 step3p5
""".split()  # state-space blocks, and windows shorter than the text
SURE = 1e-4  # experts are chosen by numbers that are near each other
TOKENS = mx.arange(20)[None] * 7 % 97
SITES = {
    "output": lambda layer: layer.output,
    "attn": lambda layer: layer.attn.output,
    "mlp": lambda layer: layer.mlp.output,
    "heads": lambda layer: layer.attn.heads,
}


def variants_of(model, site):
    """Each layer that has the site, from an early and from late positions; or its heads."""
    graphs = []
    for k in range(len(model.layers)):
        for index in (1, slice(3, None), slice(15, None), 18):
            try:
                with model.trace(TOKENS) as t:
                    value = first_array(site(model.layers[k]))
                    at = (slice(None), 0, index) if value.ndim == 4 else (slice(None), index)
                    if (
                        value.ndim < 3
                        or value.shape[1 if value.ndim == 3 else 2] != TOKENS.shape[1]
                    ):
                        break  # no positions that could be named
                    value[at] = value[at] * -0.7
                    first_array(model.output)[:, -1].save("l")
            except (MLXGraphError, AttributeError):
                break  # a layer without that part
            graphs.append(t.graph)
    return graphs


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in NAMES]
)
@pytest.mark.thin(3)
def test_a_sweep_is_a_loop_on_an_architecture(monkeypatch, name):
    """And it shares as much as it did when this was written."""
    monkeypatch.setattr(split, "FORWARD", 0)  # forwards begin wherever they can
    model = Case(name).model
    kinds = []
    for kind, site in SITES.items():
        graphs = variants_of(model, site)
        if len(graphs) < 2:
            continue
        kinds.append(kind)
        swept = model.sweep(TOKENS, graphs, progress=False)
        for one, other in zip(swept, loop(model, TOKENS, graphs), strict=True):
            assert off(one["l"], other.saves["l"]) < SURE
        assert off(swept[0]["l"], swept[1]["l"]) > 10 * SURE
        done = [way for way, _ in ways(swept) if way != "kept"]
        if any(start for _, start in ways(swept)):
            done.append(LATER)
        worst = LATER if LATER in done else min(done, key=WAYS.index)
        assert WAYS.index(worst) >= WAYS.index(LESS.get(name, {}).get(kind, default(name)))
    assert kinds


def default(name):
    return GROWN if name in NOT_LATER else LATER
