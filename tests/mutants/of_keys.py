"""Mutants of keys in a generation: which tokens they are, and what is not there yet."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

KEYS = "generation/test_keys.py"
SAVED = "generation/test_keys_saved.py"
CACHED = "generation/test_keys_cached.py"

MUTANTS = (
    Mutant(
        "a cache that has dropped tokens is counted on",
        "trace/forwards.py",
        "            if size != stop:\n",
        "            if False and size != stop:\n",
        "keys count from the start of the text, or not at all",
        (f"{CACHED}::test_a_cache_that_turns_is_refused_when_it_does",),
    ),
    Mutant(
        "a token attends to a later one",
        "rewrite/both.py",
        "    if ends(tokens)[1] <= ends(queries)[0]:\n",
        "    if True or ends(tokens)[1] <= ends(queries)[0]:\n",
        "no token attends to a later one, whatever is written",
        (f"{KEYS}::test_no_token_attends_to_a_later_one_whatever_is_written",),
    ),
    Mutant(
        "an edited row that is masked nowhere is taken for one that is",
        "rewrite/both.py",
        "state.causal and state.pad == whole.pad is not None:\n",
        "state.causal:\n",
        "what stands for a later key is what the model has there",
        (f"{KEYS}::test_no_token_attends_to_a_later_one_whatever_is_written",),
    ),
    Mutant(
        "a mean over keys is one over those so far",
        "run/along.py",
        "        return (None, 0.0) if _close(whole, short) else None\n",
        "        return (None, 0.0)\n",
        "an operation over keys is one that a later key does not change",
        (f"{KEYS}::test_what_cannot_be_tracked_says_what_to_write",),
    ),
    Mutant(
        "keys are the forward's own tokens",
        "run/along.py",
        "    if not all_so_far:\n        return held[0]\n",
        "    return next(iter(sorted(grown)))\n",
        "which axis is of all tokens so far is found with a cache",
        (f"{KEYS}::test_an_edit_is_that_of_the_whole_text_whatever_the_chunks",),
    ),
    Mutant(
        "chunks are padded with nothing",
        "trace/pieces.py",
        "    if keys.here is None:\n",
        "    if True or keys.here is None:\n",
        "a save of a prompt is what the whole prompt has",
        (f"{SAVED}::test_a_save_is_what_the_whole_text_has_at_each_step",),
    ),
    Mutant(
        "an array's positions are not told apart",
        "rewrite/positions.py",
        "positions.update(numbers(leaf) or ())",
        "positions.update(())",
        "an edit at positions that are an array's numbers is one at those positions",
        ("generation/test_laws.py::test_a_prompt_in_chunks_is_the_prompt_in_one",),
    ),
)
