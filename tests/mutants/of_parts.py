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
    Mutant(
        "another token's logit is not taken off",
        "analysis/direct_logits.py",
        "return numbers[:count] - numbers[count] if self.other is not None else numbers[:count]",
        "return numbers[:count]",
        "a difference is the difference of two",
        (f"{DIRECT}::test_a_difference_is_the_difference_of_two",),
    ),
    Mutant(
        "positions are all between the first and the last",
        "analysis/direct_logits.py",
        "    if places.labels == list(range(first, last + 1)):\n",
        "    if True:\n",
        "several positions are each by itself",
        (f"{DIRECT}::test_several_tokens_and_positions_are_each_by_itself",),
    ),
    Mutant(
        "what is not shown is nothing",
        "analysis/direct_logits.py",
        "rest = parts - np.sum(",
        "rest = 0 * parts - 0 * np.sum(",
        "what is shown and the rest add up to the logit",
        (f"{DIRECT}::test_layers_are_those_asked_for_and_the_rest_is_said",),
        (5,),
    ),
    Mutant(
        "heads are taken to lie feature by feature",
        "analysis/direct_parts.py",
        "aims = before.reshape(*before.shape[:2], count, size)\n",
        "aims = before.reshape(*before.shape[:2], size, count).swapaxes(2, 3)\n",
        "a head writes through its own columns",
        (f"{DIRECT}::test_heads_neurons_and_positions_by_hand",),
        (7,),
    ),
)
