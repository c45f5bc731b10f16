"""Mutants of the residual stream's names, and of how it is found what the stream is the sum of."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

NAMES = "inside/test_stream_names.py"

MUTANTS = (
    Mutant(
        "a write takes away the very sum that is read",
        "record/sums.py",
        "(self.lowered(value), self._again(site))",
        "(self.lowered(value), self._sum(site))",
        "a gradient at the stream comes through what is written there",
        (f"{NAMES}::test_gradients_at_it_and_through_what_is_written",),
    ),
    Mutant(
        "a write forgets by how much a part is added",
        "record/sums.py",
        "        if scale != 1:\n",
        "        if scale == 0:\n",
        "what is written is what the rest of the layer is given",
        (f"{NAMES}::test_what_is_written_is_what_the_rest_of_the_layer_is_given",),
    ),
    Mutant(
        "a sum is of what the model computes, not of what is written there",
        "record/sums.py",
        "        return self._written.get(site) or site_node(*site)\n",
        "        return site_node(*site)\n",
        "what is written before it in the forward is in it",
        (f"{NAMES}::test_what_is_written_before_it_in_the_forward_is_in_it_wherever_it_is_read",),
    ),
    Mutant(
        "what goes by the input alone as well is let pass",
        "run/stream.py",
        "    if any(broken) or",
        "    if",
        "all else in a layer goes by the sum alone",
        (f"{NAMES}::test_it_is_refused_by_numbers",),
    ),
    Mutant(
        "parts side by side have a stream between them",
        "run/stream.py",
        "    if not any(changed):\n",
        "    if changed is None:\n",
        "parts side by side have no middle",
        (f"{NAMES}::test_parts_side_by_side_have_no_middle",),
    ),
)
