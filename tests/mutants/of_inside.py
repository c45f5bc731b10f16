"""Mutants of what is inside modules: operations, attentions, and the exchange below them."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

OPS = "inside/test_operations.py"
ATTENTION = "inside/test_attention.py"
BY_HAND = "inside/test_attention_by_hand.py"
NAMES = "inside/test_attention_names.py"

MUTANTS = (
    # -- whose call it is
    Mutant(
        "a module's operations are those of the modules in it too",
        "run/inside.py",
        "            self._running.pop()\n",
        "            pass\n",
        "an operation is the innermost running module's",
        (f"{OPS}::test_a_step_is_read_as_it_is_computed_and_reading_changes_nothing",),
    ),
    Mutant(
        "what an edit computes is an operation",
        "run/inside.py",
        "        self._told = False\n        try:\n            return self._answer(path, partial",
        "        self._told = True\n        try:\n            return self._answer(path, partial",
        "what an edit computes is no operation of the module's",
        (f"{OPS}::test_what_an_edit_computes_is_no_operation_of_the_module",),
    ),
    Mutant(
        "a part called ops loses",
        "run/inside.py",
        "or self._running[-1] in self._named_so",
        "or False",
        "a part of a module that is called `ops` comes first",
        (f"{OPS}::test_a_part_that_is_called_ops_wins",),
    ),
    Mutant(
        "what a compiled function calls is told",
        "mlx_facts/watching.py",
        "        if frame.f_code in _compiled:\n            return True\n",
        "",
        "a compiled function is one operation: its Python runs only when it is traced",
        (f"{OPS}::test_what_a_compiled_function_calls_is_not_told_wherever_it_is_kept",),
    ),
    Mutant(
        "other threads are told of",
        "mlx_facts/watching.py",
        "class _Watching(threading.local):",
        "class _Watching:",
        "a watch hears of its own thread alone",
        (
            "mlx_facts/test_watching.py::test_other_threads_are_not_told_of_and_an_outer_watch_comes_back",
        ),
    ),
    # -- the census
    Mutant(
        "operations come before all modules",
        "graph/census.py",
        "modules - 1 + self._since * STEP if within else modules",
        "self._since * STEP if within else modules",
        "an operation stands between the modules before and after it",
        (f"{OPS}::test_order_holds_between_operations_and_modules",),
    ),
    Mutant(
        "operations are listed among the modules",
        "graph/census.py",
        "return [*self.order] if not self.inside else [*self._listed()[2]]",
        "return [*self.order]",
        "a trace's activations are its modules'",
        (f"{OPS}::test_names_mean_operations_in_every_call_that_takes_names",),
    ),
    Mutant(
        "a pattern of sites inside means modules that have none",
        "trace/resolve.py",
        "found = [n for n in found if visits(recording.visited.meant(n.site))] or found[:1]",
        "pass",
        "a pattern means the modules that compute what it names",
        (f"{OPS}::test_a_pattern_means_the_modules_that_call_it",),
    ),
    # -- attentions
    Mutant(
        "an edited pattern is not used",
        "run/attention.py",
        "edited = answers.writes(SCORES) or answers.writes(PATTERN)",
        "edited = answers.writes(SCORES)",
        "heads follow from the pattern that was written",
        (f"{ATTENTION}::test_what_is_written_is_what_follows_is_computed_from",),
    ),
    Mutant(
        "a causal mask is aligned at the first key",
        "run/attention.py",
        "mx.arange(keys - length, keys)[:, None]",
        "mx.arange(length)[:, None]",
        "the last queries are the last keys",
        (f"{ATTENTION}::test_every_mask_is_that_of_the_kernel",),
    ),
    Mutant(
        "a mask of heads is the groups' first",
        "run/attention.py",
        "groups = self._groups[1:] if per_head else (1, 1)",
        "groups = self._groups[:0:-1] if per_head else (1, 1)",
        "each head has the mask that the kernel gives it",
        (f"{ATTENTION}::test_every_mask_is_that_of_the_kernel",),
    ),
    Mutant(
        "sinks are left out",
        "run/attention.py",
        "        if self.sinks is None:\n",
        "        if True:\n",
        "with a sink a row of the pattern sums to less than one",
        (f"{ATTENTION}::test_every_mask_is_that_of_the_kernel",),
    ),
    Mutant(
        "written values of a quantised cache are not used",
        "run/attention.py",
        "edited = edited or answers.writes(KEYS) or answers.writes(VALUES)",
        "edited = edited or answers.writes(KEYS)",
        "values that are written past a quantised cache are used",
        (f"{ATTENTION}::test_a_quantised_cache_is_read_as_it_is_and_written_past_it",),
    ),
    Mutant(
        "positions of heads are heads",
        "trace/resolve.py",
        "for part in at_positions(handle.swapaxes(1, 2), positions, lengths, where):",
        "for part in at_positions(handle, positions, lengths, where):",
        "positions inside an attention are those of the queries or keys",
        (f"{NAMES}::test_an_edit_at_positions_is_one_of_the_queries_or_keys",),
    ),
    # -- written out by hand
    Mutant(
        "the first of several products is taken for the scores",
        "run/handwritten.py",
        "    if len(before) > 1:\n",
        "    if False:\n",
        "an attention that is not certain is refused",
        (f"{BY_HAND}::test_what_is_not_certain_says_why_and_shows_the_operations",),
    ),
    Mutant(
        "a cast of the pattern is another array",
        "run/marks.py",
        "        wear(array, type(self))\n",
        "",
        "a pattern that is cast on its way is still the pattern",
        (f"{BY_HAND}::test_its_values_obey_the_laws",),
    ),
    Mutant(
        "a query sees the key after it",
        "run/attention.py",
        "keys)[:, None] >= mx.arange(keys)\n",
        "keys)[:, None] >= mx.arange(keys) - 1\n",
        "in a causal model nothing of the pattern is above the diagonal",
        (
            "inside/test_attention.py::test_rows_sum_to_one_or_with_a_sink_to_less_and_respect_the_mask",
        ),
        (9,),
    ),
    Mutant(
        "the kernel is given the keys as they were",
        "run/attention.py",
        "keys, values = dense = shown(",
        "_, values = dense = shown(",
        "editing a key-value head changes its group",
        ("inside/test_attention.py::test_editing_a_key_value_head_changes_exactly_its_group",),
        (22,),
    ),
)
