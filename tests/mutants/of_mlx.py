"""Mutants of what stands nearest to MLX: `evaluate/` and `mlx_facts/`."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "an adapter stands alone",
        "mlx_facts/matrices.py",
        "    plain.weight = base\n",
        "    plain.weight = 0 * base\n",
        "a module's output is its input times its matrix",
        ("mlx_facts/test_matrices.py::test_an_adapted_layer",),
    ),
    Mutant(
        "what is not linear has a matrix",
        "mlx_facts/matrices.py",
        "_CLOSE.get(dtype, 1e-4) * size",
        "_CLOSE.get(dtype, 1e-4) * 1e9 * size",
        "what is no linear map has no matrix",
        ("mlx_facts/test_matrices.py::test_what_is_no_linear_map_has_no_matrix",),
    ),
    Mutant(
        "making a matrix draws random numbers",
        "mlx_facts/matrices.py",
        "    finally:  # a new layer is made, and draws what is then replaced\n"
        "        random_state.restore(before)\n",
        "    finally:\n        pass\n",
        "reading weights changes nothing",
        (
            "mlx_facts/test_matrices.py::test_a_module_that_is_asked_is_as_it_was_and_nothing_is_drawn",
        ),
    ),
    Mutant(
        "the user's own modules are hooked",
        "mlx_facts/modules.py",
        "    twin = dict.__new__(module.__class__)\n",
        "    return module\n",
        "the model is the very same before and after",
        ("laws/test_residue.py::test_success_leaves_no_residue",),
        (25, 32),
    ),
    Mutant(
        "padding is not hidden",
        "mlx_facts/batch_caches.py",
        "    batch.left_padding = padding\n",
        "",
        "a left-padded row equals its single run",
        ("run/test_padding.py::test_each_row_equals_its_single_run",),
        (12, 13),
    ),
    Mutant(
        "positions count the padding",
        "mlx_facts/batch_caches.py",
        "    batch.offset = -padding\n",
        "",
        "a left-padded row equals its single run",
        ("run/test_padding.py::test_each_row_equals_its_single_run",),
        (13,),
    ),
    Mutant(
        "a run that failed to compile is kept",
        "mlx_facts/compiling.py",
        "            self._compiled = None\n            if key is not None:",
        "            if key is not None:",
        "a failed compilation does not spoil the next call",
        ("mlx_facts/test_compiling.py::test_a_function_whose_trace_failed_is_traced_anew",),
    ),
    Mutant(
        "a compiled function draws what it captured",
        "mlx_facts/compiling.py",
        "state = random_state.as_captured() if self._draws else {}",
        "state = {}",
        "each run draws anew, compiled or not",
        ("run/test_random.py::test_each_run_draws_anew",),
        (25,),
    ),
    Mutant(
        "a write changes what was there",
        "evaluate/functions.py",
        "changed = same_data(base)",
        "changed = base",
        "values in a graph never change",
        ("record/test_order.py::test_what_was_read_earlier_can_be_written_back",),
    ),
    Mutant(
        "a number has a dtype of its own",
        "evaluate/evaluate.py",
        "    if partner is None:\n        return args\n",
        "    return args\n",
        "numbers are as weakly typed as MLX makes them, compiled or not",
        ("record/test_proxies.py::test_numbers_are_as_weakly_typed_as_mlx_makes_them",),
        (25,),
    ),
    Mutant(
        "a function given to apply changes the run",
        "evaluate/evaluate.py",
        "inputs, named = same_data_in((args[1:], kwargs))",
        "inputs, named = args[1:], kwargs",
        "a function given to apply cannot change the run in place",
        ("record/test_escapes.py::test_a_function_given_to_apply_cannot_change_the_run_in_place",),
    ),
    Mutant(
        "what does not fit these inputs is MLX's to say",
        "evaluate/values.py",
        "raise NodeFailure(node, error) from error",
        "raise",
        "what fails in a run is told by the user's line",
        ("rewrite/test_preserving.py::test_what_fails_in_a_run_is_told_by_the_users_line",),
        (27,),
    ),
)
