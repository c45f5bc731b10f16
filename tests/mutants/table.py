"""All mutants, room by room."""

from __future__ import annotations

from tests.mutants import (
    of_attribution,
    of_folding,
    of_graph,
    of_inside,
    of_keys,
    of_mlx,
    of_parts,
    of_paths,
    of_record,
    of_rewrite,
    of_run,
    of_store,
    of_sweep,
    of_terminal,
    of_trace,
)
from tests.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *of_attribution.MUTANTS,
    *of_folding.MUTANTS,
    *of_graph.MUTANTS,
    *of_inside.MUTANTS,
    *of_keys.MUTANTS,
    *of_mlx.MUTANTS,
    *of_parts.MUTANTS,
    *of_paths.MUTANTS,
    *of_record.MUTANTS,
    *of_rewrite.MUTANTS,
    *of_run.MUTANTS,
    *of_store.MUTANTS,
    *of_sweep.MUTANTS,
    *of_terminal.MUTANTS,
    *of_trace.MUTANTS,
)
