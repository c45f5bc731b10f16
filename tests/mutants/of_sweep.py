"""Mutants of sweeps: whose rows are whose, and what is shared."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

GROWING = "sweep/test_growing.py"
STALE = "sweep/test_never_stale.py"

MUTANTS = (
    Mutant(
        "a run joins after its first write",
        "run/grown.py",
        "bisect_right(self._firsts, when) + self._base)",
        "bisect_left(self._firsts, when) + self._base)",
        "a run joins with its first write made",
        (f"{GROWING}::test_every_site_joins_where_it_is_and_answers_as_alone",),
        (16,),
    ),
    Mutant(
        "a run without an edit of the others joins with it",
        "run/grown.py",
        "edited = {number: kept[0] for number in range(have, want)} | edited\n",
        "edited = {number: edited[0] for number in range(have, want)} | edited\n",
        "a run joins where it first differs from slab 0, which may be where it does nothing",
        (f"{GROWING}::test_a_run_that_lacks_what_most_of_the_others_write",),
    ),
    Mutant(
        "other vectors in one structure are the same edit",
        "sweep/common.py",
        "        if base.writes.get(site) is not node or not _alike(node, row, base)\n",
        "        if base.writes.get(site) is not node\n",
        "what all write alike has the same values",
        (f"{GROWING}::test_one_structure_with_other_vectors_is_not_what_all_write_alike",),
        (31,),
    ),
    Mutant(
        "an edit that differs is not where a run joins",
        "sweep/common.py",
        "    own |= {site for site in base.writes if site not in row.plan.writes",
        "    own |= {site for site in () if site not in row.plan.writes",
        "a run joins where it first differs from slab 0",
        (f"{GROWING}::test_a_run_that_lacks_what_most_of_the_others_write",),
    ),
    Mutant(
        "the last layer forgets where the forward begins",
        "run/late.py",
        "held = KeysAndValues.of(cache.keys, cache.values, at.start)",
        "held = KeysAndValues.of(cache.keys, cache.values, start)",
        "positions of the last layer's queries are those of the text",
        (f"{GROWING}::test_the_last_layer_runs_at_the_positions_that_are_looked_at",),
    ),
    Mutant(
        "rows are taken for independent",
        "sweep/certain.py",
        "            if isinstance(b, ARRAY) and not alike(a, b[:, start:] if start else b):\n",
        "            if False and isinstance(b, ARRAY) and not alike(a, b):\n",
        "what differs is not shared",
        (f"{GROWING}::test_rows_that_depend_on_each_other_run_one_by_one",),
    ),
    Mutant(
        "a larger batch is taken for what a small one was",
        "sweep/certain.py",
        "        known = runner.certain.put(key, (tried(), seen))\n",
        "        known = runner.certain.put(key, (True, seen))\n",
        "what differs is not shared",
        (f"{STALE}::test_rows_that_mix_only_in_larger_forwards_are_seen",),
    ),
    Mutant(
        "what is certain stays so when weights change",
        "sweep/certain.py",
        " or not runner.tree.are_weights(known[1]):  # those of 0 mix nothing\n",
        ":\n",
        "what differs is not shared",
        (f"{STALE}::test_rows_that_begin_to_mix_are_seen",),
    ),
)
