"""Mutants of the command line and its maps: a number out of place, a mistake that is not told."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

LETTERS = "analysis/test_letters.py"
COMMANDS, FAILURES = "cli/test_commands.py", "cli/test_failures.py"

MUTANTS = (
    Mutant(
        "a map in letters is turned round",
        "analysis/effects_map.py",
        "order = [self.dims.index(axis) for axis in (*before, down, across)]",
        "order = [self.dims.index(axis) for axis in (*before, across, down)]",
        "each number of a map is in its row and column",
        (f"{LETTERS}::test_a_map_has_each_number_in_its_row_and_column",),
    ),
    Mutant(
        "a wide letter takes one column",
        "plot/labels.py",
        '2 if east_asian_width(sign) in "WF" else 1',
        "1",
        "the columns of a table are straight",
        (f"{LETTERS}::test_wide_and_accented_tokens_and_bytes_keep_the_columns_straight",),
    ),
    Mutant(
        "the last columns of a folded map are left out",
        "plot/terminal.py",
        "for start in range(0, len(square.columns), fit):",
        "for start in range(0, 1, fit):",
        "no layer of a map is left out",
        (f"{LETTERS}::test_no_line_is_too_wide_and_no_layer_is_left_out",),
    ),
    Mutant(
        "edits of the command line are read and not made",
        "cli/arguments.py",
        "return model.edit(mg.chain(*edits)) if edits else model",
        "return model",
        "a command under an edit is the library's answer under it",
        (f"{COMMANDS}::test_an_edit_in_a_line_is_the_edit",),
    ),
    Mutant(
        "the file of a picture is looked at when the model has run",
        "cli/lens.py",
        "    check_picture(given)\n",
        "",
        "what can be known before a model loads is said before",
        (f"{FAILURES}::test_what_can_be_known_before_is_said_before_a_model_loads",),
    ),
    Mutant(
        "an interrupted map is thrown away",
        "cli/patch.py",
        "        if isinstance(stopped.result, mg.Effects):\n",
        "        if False:\n",
        "an interrupted map shows and keeps what is done",
        (f"{FAILURES}::test_an_interrupted_map_shows_and_keeps_what_is_done",),
    ),
)
