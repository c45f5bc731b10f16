"""Mutants of folding and steering: what a weight takes over, and what it may not."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

FOLDING = "folding/test_folding.py"

MUTANTS = (
    Mutant(
        "a weight that is used elsewhere is folded",
        "model/fold.py",
        "    if _unchanged(model, inputs, outputs, list(maps), whole):\n",
        "    if True:\n",
        "a folded weight has no other part in the forward",
        (f"{FOLDING}::test_modules_that_are_called_twice_or_twice_used_are_refused",),
    ),
    Mutant(
        "a cap that small values pass is not seen",
        "model/ends.py",
        "draw.uniform(4.0, 16.0, width)",
        "draw.uniform(0.004, 0.016, width)",
        "what a site ends in is linear, whatever the size",
        (f"{FOLDING}::test_a_cap_that_small_values_pass_is_seen",),
    ),
    Mutant(
        "edits of what is inside come last",
        "model/fold.py",
        "key=lambda step: -step.path",
        "key=lambda step: step.path",
        "a fold is the edit: the order is the forward's",
        (f"{FOLDING}::test_edits_of_one_module_come_in_the_order_of_the_forward",),
    ),
    Mutant(
        "a shift is not carried through a later edit",
        "model/affine.py",
        "        moved = None if outer is None else _of(outer, first.offset)\n",
        "        moved = None if outer is None else first.offset\n",
        "a fold is the edit: what was added is projected too",
        (f"{FOLDING}::test_a_constant_goes_into_a_bias_and_an_embedding",),
    ),
    Mutant(
        "an edit of some positions is one of all",
        "model/affine.py",
        '        if not _is_whole(rest[0]):\n            raise NotAffine("it edits',
        '        if False:\n            raise NotAffine("it edits',
        "what is of some positions is not folded",
        (f"{FOLDING}::test_edits_of_a_block_are_refused_with_their_line",),
    ),
    Mutant(
        "rows are not made orthonormal",
        "interventions/subspaces.py",
        "    return mx.array(basis[sizes > SAME_SPAN * sizes[0]].astype(np.float32))\n",
        "    return mx.array((rows / lengths[:, None]).astype(np.float32))\n",
        "what several rows span is removed",
        ("test_directions.py::test_projecting_out_is_the_complement",),
    ),
    Mutant(
        "a component points either way",
        "analysis/steering_vectors.py",
        "unit = direction / length * np.sign(along)",
        "unit = direction / length",
        "a vector points to the positive texts",
        ("analysis/test_steering_vectors.py::test_it_is_the_arithmetic_by_hand",),
    ),
    Mutant(
        "a sum of modules need not be one",
        "analysis/stream_writers.py",
        "    if left > near * size:\n",
        "    if False:\n",
        "the writers sum to the stream",
        ("analysis/test_stream_writers.py::test_where_it_is_not_certain_it_says_so",),
    ),
    Mutant(
        "what is removed is turned round",
        "interventions/subspaces.py",
        "return like(x, wide - (wide @ basis.T) @ basis)",
        "return like(x, wide - 2 * (wide @ basis.T) @ basis)",
        "removing a direction twice is removing it once",
        ("test_directions.py::test_projecting_out_is_the_complement",),
        (20,),
    ),
    Mutant(
        "one writer keeps the direction",
        "interventions/everywhere.py",
        "for name in writers))",
        "for name in writers[:-1]))",
        "a direction is removed from all that writes to the stream",
        (f"{FOLDING}::test_the_weights_are_those_by_hand",),
        (20,),
    ),
)
