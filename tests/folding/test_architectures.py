"""On every architecture of mlx-lm: a fold is the edit, or it is refused."""

from __future__ import annotations

import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import FoldError, NeverCalledError, UnknownSiteError, WritersError
from tests.architectures import configs
from tests.folding.helpers import TOKENS, UNUSED, apart, built, direction, first

ALWAYS = ("llama", "phixtral", "qwen3_next", "gpt_oss")
NAMES = configs.installed(configs.KNOWN.split())
REFUSED = (FoldError, NeverCalledError, UnknownSiteError, WritersError)


def folded_or_refused(model, graph) -> bool:
    """Whether a graph folds; where it does, that the fold is the edit."""
    try:
        folded = model.fold(graph, untie=True)
    except REFUSED:
        return False
    edited = model.edit(graph)
    for tokens in (TOKENS, UNUSED):
        assert apart(first(folded(tokens)), first(edited(tokens))) < 1e-5
    assert apart(first(folded(TOKENS)), first(model(TOKENS))) > 1e-3
    return True


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ALWAYS else [pytest.mark.slow]) for n in NAMES]
)
@pytest.mark.thin(3)
def test_a_fold_is_the_edit_or_refused(name):
    try:
        model, v = built(name), direction(64)
        model(TOKENS)
    except RuntimeError as error:  # the bare model's own: a kernel that this machine lacks
        pytest.skip(str(error))
    parts = [mg.edit(f"layers.*.{part}", iv.project_out(v)) for part in ("attn", "mlp")]
    done = [folded_or_refused(model, graph) for graph in parts]
    try:
        done.append(folded_or_refused(model, mg.directional_ablation(model, v)))
    except WritersError:
        done.append(False)
    if name in ALWAYS:
        assert done == [True, True, True]
