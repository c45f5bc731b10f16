"""Mutants of attribution: which slope, which step, which weight."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

ATTRIBUTION, STEPS, INTEGRATED, GRADDROP = (
    f"analysis/test_{page}.py"
    for page in ("attribution", "attention_steps", "integrated", "graddrop")
)
BY_HAND = f"{GRADDROP}::test_it_is_the_mean_of_absolute_effects_with_each_layer_held"

MUTANTS = (
    Mutant(
        "slopes are those of the other text",
        "analysis/attribution.py",
        "run = slopes_of(model, pair.run, places,",
        "run = slopes_of(model, pair.other, places,",
        "gradients of the run, times the step to the other text",
        (f"{ATTRIBUTION}::test_it_is_what_mx_grad_gives_of_a_forward_written_by_hand",),
    ),
    Mutant(
        "where nothing steps a slope that is no number counts",
        "analysis/slopes.py",
        "product = mx.where(step == 0, 0.0, gradient.astype(mx.float32) * step)",
        "product = gradient.astype(mx.float32) * step",
        "a text against itself has no effect",
        (f"{ATTRIBUTION}::test_a_text_against_itself_has_no_effect",),
    ),
    Mutant(
        "heads that share a key are averaged",
        "analysis/attention_step.py",
        "effects.reshape(shape).sum(axis=2)",
        "effects.reshape(shape).mean(axis=2)",
        "a key's step is felt by every head of its group",
        (f"{STEPS}::test_each_position_equals_the_pattern_by_hand",),
    ),
    Mutant(
        "a key's old weight stays in the sum",
        "analysis/attention_step.py",
        "rest = np.maximum(total[..., None] - weights, 0.0) + other",
        "rest = total[..., None] + other",
        "a patched key takes the place of the old one in the softmax",
        (f"{STEPS}::test_each_position_equals_the_pattern_by_hand",),
    ),
    Mutant(
        "a step of queries goes on to later layers",
        "analysis/attention_step.py",
        'given[...] = run.further[f"{attention}.heads"]',
        "given[...] = given",
        "every layer's queries are patched in the unpatched run",
        (f"{STEPS}::test_each_position_equals_the_pattern_by_hand",),
    ),
    Mutant(
        "all steps weigh alike",
        "analysis/integrated.py",
        "loss = mx.sum(mx.stack(scores) * batch.weights)",
        "loss = mx.sum(mx.stack(scores) * mx.mean(batch.weights))",
        "integrated gradients add up",
        (f"{INTEGRATED}::test_effects_add_up_to_what_patching_the_whole_value_does",),
        laws=(23,),
    ),
    Mutant(
        "the way begins at its end",
        "analysis/integrated.py",
        "value = begin + points * difference(self.ends[key_of(place)], begin)",
        "value = begin - points * difference(self.ends[key_of(place)], begin)",
        "integrated gradients add up",
        (f"{INTEGRATED}::test_effects_add_up_to_what_patching_the_whole_value_does",),
        laws=(23,),
    ),
    Mutant(
        "a layer that is held passes slopes on",
        "analysis/graddrop.py",
        "made[part] = mx.stop_gradient(made[part])",
        "made[part] = mx.array(made[part])",
        "what a layer by which effects cancel adds is held once",
        (f"{GRADDROP}::test_what_cancels_is_found",),
    ),
    Mutant(
        "all layers of a batch are held at once",
        "analysis/graddrop.py",
        "part = slice(row, row + 1) if rows > 1 else ...",
        "part = ...",
        "one layer at a time is held",
        (BY_HAND,),
    ),
    Mutant(
        "effects with a layer held cancel each other",
        "analysis/graddrop.py",
        "return np.abs(cell_numbers(cells, products))",
        "return np.array(cell_numbers(cells, products))",
        "sizes are averaged",
        (BY_HAND,),
    ),
    Mutant(
        "a part's own layer counts",
        "analysis/graddrop.py",
        "len(layers) - _is_part(model, cell.place)",
        "len(layers)",
        "the layer that a part is in cannot be held for it",
        (BY_HAND,),
    ),
    Mutant(
        "layers before the first that is asked for do not count",
        "analysis/graddrop.py",
        "total = first * _sizes(cells, plain)",
        "total = 0 * _sizes(cells, plain)",
        "the mean is over all layers, whichever are asked for",
        (f"{GRADDROP}::test_in_percent_it_is_a_share_of_the_way_whatever_the_direction",),
    ),
    Mutant(
        "sizes begin where the text that runs does",
        "analysis/slopes.py",
        "start = worst if pair.denoise or sizes else best",
        "start = worst if pair.denoise else best",
        "no effect is 0 percent in both directions",
        (f"{GRADDROP}::test_in_percent_it_is_a_share_of_the_way_whatever_the_direction",),
    ),
)
