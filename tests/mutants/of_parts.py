"""Mutants of taking a model apart: what is left out of a sum, and what is not looked at."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

DIRECT = "analysis/test_direct_logits.py"
COMPOSITION = "analysis/test_composition.py"

MUTANTS = (
    Mutant(
        "a LayerNorm takes no mean off a direction",
        "analysis/frozen_norm.py",
        "return _centred(directions * self.gain * self.scale, self.centred)",
        "return directions * self.gain * self.scale",
        "direct logit attribution adds up to the logit",
        (f"{DIRECT}::test_a_layer_norm_takes_its_mean_off_by_hand",),
        (5,),
    ),
    Mutant(
        "a scaled residual is taken for a sum",
        "analysis/writers.py",
        "ROUNDINGS * step / 2 * size",
        "1e3 * size",
        "a layer's output is its input and what its modules gave",
        (f"{DIRECT}::test_a_model_that_is_no_such_sum_says_so",),
        (4,),
    ),
    Mutant(
        "what comes between two layers is not looked at",
        "analysis/written_stream.py",
        "        if not np.array_equal(block.stream.given, stream):",
        "        if False and not np.array_equal(block.stream.given, stream):",
        "a layer is given what the one before it gave",
        (f"{DIRECT}::test_a_model_that_is_no_such_sum_says_so",),
    ),
    Mutant(
        "the norm after attention is left out of its heads",
        "analysis/direct_parts.py",
        "        directions = norm.pulled(directions)\n",
        "",
        "heads add up to what their attention writes",
        (f"{DIRECT}::test_heads_behind_a_norm_by_hand",),
        (7,),
    ),
    Mutant(
        "what was found of a model is never looked for anew",
        "analysis/direct_logits.py",
        "            forget(model)\n",
        "            pass\n",
        "a module replaced in the tree is seen",
        (f"{DIRECT}::test_what_was_found_before_is_looked_for_anew_where_the_model_has_changed",),
    ),
    Mutant(
        "grouped values are those of the wrong heads",
        "analysis/direct_parts.py",
        "values = np.repeat(values, heads.shape[0] // values.shape[0], axis=0)",
        "values = np.tile(values, (heads.shape[0] // values.shape[0], 1, 1))",
        "query heads of one group share its values",
        (f"{DIRECT}::test_heads_neurons_and_positions_by_hand",),
    ),
    Mutant(
        "a composition by queries goes on by queries",
        "analysis/composition.py",
        '    on = {"q": receiver.of_keys, "k": receiver.of_queries,',
        '    on = {"q": receiver.of_queries, "k": receiver.of_keys,',
        "a score is that of the matrices multiplied out",
        (f"{COMPOSITION}::test_scores_by_hand",),
    ),
    Mutant(
        "the gain of the norm before attention is left out",
        "analysis/composition.py",
        "    maps = maps * mx.array(norm.gain)\n",
        "",
        "a score is that of the matrices multiplied out",
        (f"{COMPOSITION}::test_scores_by_hand",),
    ),
)
