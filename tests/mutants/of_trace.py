"""Mutants of what joins the rooms: `trace/`, `model/`, `analysis/`, and lines in `errors/`."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    # -- several prompts
    Mutant(
        "every prompt has the first rows",
        "trace/batch.py",
        "Slice(first, first + prompt.rows, None)",
        "Slice(0, prompt.rows, None)",
        "edits stay in their rows",
        ("composing/test_invokes.py::test_edits_stay_in_their_rows",),
        (15,),
    ),
    Mutant(
        "a prompt's positions are the first ones",
        "trace/batch.py",
        "index.append(Slice(whole - mine, whole, None))",
        "index.append(Slice(0, mine, None))",
        "each invoke equals its own run, whatever the others' lengths",
        ("composing/test_invokes.py::test_a_patch_across_texts_of_different_lengths",),
        (15,),
    ),
    Mutant(
        "the last prompt's edit is the only one",
        "trace/batch.py",
        "base = writes.get(site, site_node(*site))",
        "base = site_node(*site)",
        "each prompt's edits act on its own rows",
        ("composing/test_invokes.py::test_edits_that_stay_act_on_every_invoke",),
        (15,),
    ),
    # -- deferred edits
    Mutant(
        "positions of a padded row count its padding",
        "trace/resolve.py",
        "columns.append([longest - length + p % length for p in positions])",
        "columns.append([p % longest for p in positions])",
        "in a padded batch positions count from each row's real ends",
        (
            (
                "composing/test_edit_positions.py::test_in_a_padded_batch_positions_count_from_ea"
                "ch_rows_real_ends"
            ),
        ),
        (10, 12),
    ),
    Mutant(
        "a slice of a padded row counts its padding",
        "trace/resolve.py",
        "columns.append([longest - length + p for p in range(*positions.indices(length))])",
        "columns.append([*range(*positions.indices(longest))])",
        "in a padded batch positions count from each row's real ends",
        (
            (
                "composing/test_edit_positions.py::test_in_a_padded_batch_positions_count_from_ea"
                "ch_rows_real_ends"
            ),
        ),
    ),
    Mutant(
        "a row may be edited where it has no position",
        "trace/resolve.py",
        "if not -length <= p < length:",
        "if False:",
        "a position that a row does not have raises",
        ("composing/test_edit_positions.py::test_a_position_that_a_row_does_not_have_raises",),
        (27,),
    ),
    Mutant(
        "another head is edited",
        "trace/resolve.py",
        "return [head % count for head in heads]",
        "return [(head + 1) % count for head in heads]",
        "zeroing heads is zeroing their columns of the output projection",
        (
            (
                "composing/test_edit_positions.py::test_zeroing_heads_is_zeroing_their_columns_of"
                "_the_output_projection"
            ),
        ),
        (8,),
    ),
    Mutant(
        "heads are counted in the queries' order of axes",
        "trace/resolve.py",
        "split = flat.reshape(*flat.shape[:2], count, flat.shape[2] // count)",
        "split = flat.reshape(*flat.shape[:2], flat.shape[2] // count, count).swapaxes(2, 3)",
        "zeroing heads is zeroing their columns of the output projection",
        (
            (
                "composing/test_edit_positions.py::test_zeroing_heads_is_zeroing_their_columns_of"
                "_the_output_projection"
            ),
        ),
        (8,),
    ),
    Mutant(
        "any number of modules is expected",
        "trace/resolve.py",
        "if deferred.expect is not None and len(found) != deferred.expect:",
        "if False:",
        "another count than expected raises on use",
        ("composing/test_edit_sites.py::test_another_count_than_expected_raises_on_use",),
    ),
    # -- inputs
    Mutant(
        "templated text gets a second BOS token",
        "trace/encoding.py",
        "bool(first) and text.startswith(first)",
        "False",
        "a text that begins with the BOS token gets no second one",
        ("surface/test_chat.py::test_templated_text_gets_no_second_bos",),
    ),
    Mutant(
        "messages end where the answer would begin",
        "trace/chat.py",
        "tokenize=False, add_generation_prompt=True",
        "tokenize=False",
        "messages are the text of the template",
        ("surface/test_chat.py::test_messages_are_the_text_of_the_template",),
    ),
    Mutant(
        "a part of a text is at the first token that holds some of it",
        "trace/tokens.py",
        "found.append(at + len(part))",
        "found.append(at + 1)",
        "the position is that of the last token",
        ("surface/test_tokens.py::test_the_position_is_that_of_the_last_token",),
    ),
    Mutant(
        "the first of several occurrences is taken",
        "trace/tokens.py",
        "        if len(positions) > 1:\n",
        "        if not positions:\n",
        "an ambiguous part raises",
        ("surface/test_tokens.py::test_which_of_several",),
    ),
    Mutant(
        "padding is on the right",
        "trace/inputs.py",
        "[pad] * (longest - len(row)) + list(row)",
        "list(row) + [pad] * (longest - len(row))",
        "the last column is every row's last token",
        ("surface/test_inputs.py::test_tokens_and_lengths_say_what_ran",),
        (13,),
    ),
    Mutant(
        "rows are hidden by their lengths",
        "trace/inputs.py",
        "padding = mx.array([longest - length for length in lengths])",
        "padding = mx.array([length for length in lengths])",
        "each row equals the same text alone",
        ("surface/test_batches.py::test_each_row_equals_the_same_text_alone",),
        (12, 13),
    ),
    Mutant(
        "a text loses its first token",
        "trace/encoding.py",
        "        return list(encoded)\n",
        "        return list(encoded)[1:]\n",
        "a text, its ids and an array of them are one input",
        (
            "surface/test_inputs.py::test_text_ids_and_arrays_are_one_input",
            "surface/test_inputs.py::test_the_tokenizer_helpers_agree",
        ),
        (26,),
    ),
    # -- what a trace gives back
    Mutant(
        "values after the block are the bare model's",
        "trace/trace.py",
        "written.get(site) or site_node(*site)",
        "site_node(*site)",
        "output and activations are the edited run's",
        ("surface/test_values.py::test_activations_are_the_edited_runs",),
        (3,),
    ),
    Mutant(
        "values after the block are drawn anew",
        "trace/execute.py",
        "    random_state.restore(key)\n",
        "    pass\n",
        "what is computed after the block is from the same draws",
        ("run/test_random.py::test_what_is_computed_after_the_block_is_from_the_same_draws",),
    ),
    Mutant(
        "looks see the first run's values",
        "trace/looks.py",
        "if self._values is None or not known or self._writes != frozenset(graph.writes):",
        "if self._values is None or not known:",
        "looks see the edits above them and none below",
        ("record/test_looks.py::test_looks_see_the_edits_above_them_and_none_below",),
    ),
    Mutant(
        "every look is a run",
        "trace/looks.py",
        "if self._values is None or not known or self._writes != frozenset(graph.writes):",
        "if True:",
        "looks between two edits share one forward",
        ("record/test_looks.py::test_looks_between_two_edits_share_one_forward",),
    ),
    Mutant(
        "stop() is an error",
        "trace/trace.py",
        "        return kind is StopBlock\n",
        "        return False\n",
        "stop leaves the block, and what was recorded runs",
        ("composing/test_habits.py::test_stop_leaves_the_block_and_what_was_recorded_runs",),
    ),
    Mutant(
        "an error in the block is held",
        "trace/trace.py",
        "        explain_escape(error)\n        return False\n",
        "        explain_escape(error)\n        return True\n",
        "an exception in the block reaches the user unchanged",
        ("laws/test_residue.py::test_an_exception_in_the_block_reaches_the_user_unchanged",),
        (32,),
    ),
    # -- graphs on models
    Mutant(
        "an edit stays on the original, too",
        "run/engine.py",
        "        twin = object.__new__(Engine)\n",
        "        twin = self\n",
        "the original stays as it was",
        ("composing/test_edited_models.py::test_the_original_stays_as_it_was_to_the_last_bit",),
        (25,),
    ),
    Mutant(
        "edits that stay come last",
        "run/engine.py",
        "return self.edits >> graph if self.is_edited else graph",
        "return graph >> self.edits if self.is_edited else graph",
        "what is done on an edited model comes after its edits",
        ("composing/test_edited_models.py::test_edits_stack_in_order",),
    ),
    Mutant(
        "a block of edits that raises edits",
        "model/edit_block.py",
        "        if error is None:\n",
        "        if True:\n",
        "a block of edits that raises edits nothing",
        ("composing/test_edited_models.py::test_a_block_of_edits_that_raises_edits_nothing",),
    ),
    Mutant(
        "one resolved graph serves all lengths",
        "model/compiled_pass.py",
        "key = (call.key, call.ragged_lengths, ref(engine.names.tree))",
        "key = (call.key, ref(engine.names.tree))",
        "one graph serves batches of all kinds",
        ("composing/test_edit_positions.py::test_one_graph_serves_batches_of_all_kinds",),
        (27,),
    ),
    Mutant(
        "a missing value is nought",
        "model/compiled_pass.py",
        "                raise MissingParamError(name)\n",
        "                params[name] = 0.0\n",
        "a missing value is named",
        ("composing/test_params.py::test_a_missing_value_is_named",),
    ),
    Mutant(
        "another layer number is the same pass",
        "model/traced_function.py",
        "return (type(value), value if value.__hash__ is not None else _Itself(value))",
        "return type(value)",
        "whole numbers choose layers and positions",
        ("composing/test_pass_functions.py::test_whole_numbers_choose_layers_and_positions",),
    ),
    Mutant(
        "numbers are baked into a pass",
        "model/traced_function.py",
        "return isinstance(value, (mx.array, float))",
        "return isinstance(value, mx.array)",
        "new values of arguments never compile anew",
        ("composing/test_pass_functions.py::test_new_values_of_arguments_never_compile_anew",),
    ),
    # -- analyses, and lines
    Mutant(
        "the lens leaves the norm out",
        "analysis/unembed.py",
        "entry = model.layers[-1] if apply_norm else model[_norm_to_skip(model)]",
        "entry = model[_norm_to_skip(model)]",
        "a layer's lens is its output through the norm and the head",
        ("analysis/test_lens.py::test_each_layer_is_its_output_through_norm_and_head",),
        (6,),
    ),
    Mutant(
        "errors name the function's first line",
        "errors/source_line.py",
        "line = line or self.code.co_firstlineno",
        "line = self.code.co_firstlineno",
        "errors name the user's line",
        ("record/test_order.py::test_a_write_from_a_later_site_raises_with_both_sites_and_lines",),
    ),
    Mutant(
        "errors name a line of the library",
        "errors/source_line.py",
        "        if not (is_inside(code) if inside is None else inside):\n",
        "        if True:\n",
        "errors name the user's line",
        ("record/test_fit.py::test_a_shape_that_does_not_fit_raises_at_the_users_line",),
    ),
)
