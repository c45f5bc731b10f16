"""Mutants of path patching and of head detectors: what is held, who hears what, who looks where."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

PATHS = "analysis/test_path_patching.py"
HEADS = "analysis/test_head_scores.py"

MUTANTS = (
    Mutant(
        "what is between is not held",
        "analysis/path_edges.py",
        "            base.hold(model, layer, free, rows)\n",
        "",
        "all between a sender and a receiver keeps what it gave",
        (f"{PATHS}::test_every_edge_of_a_llama_equals_the_forward_by_hand",),
    ),
    Mutant(
        "a norm after a sender is held",
        "analysis/path_edges.py",
        "free |= base.after(layer, child) if child else set()",
        "free |= {child} if child else set()",
        "all edges out of a part together are the part",
        (f"{PATHS}::test_all_edges_out_of_a_part_together_are_the_part",),
        (24,),
    ),
    Mutant(
        "MLPs that are gone through are held",
        "analysis/path_edges.py",
        "free = set((through or {}).get(layer, ()))",
        "free: set[str] = set()",
        "MLPs between the two pass on what changes",
        (f"{PATHS}::test_every_edge_of_a_llama_equals_the_forward_by_hand",),
    ),
    Mutant(
        "what arrives is told at every position",
        "analysis/path_ways.py",
        "one = self._edges.out(last, difference)",
        "one = self._edges.out(last, 0 * difference + mx.sum(difference, axis=1, keepdims=True))",
        "a direct edge to the output at a position changes no other",
        (f"{PATHS}::test_a_direct_edge_to_the_output_at_a_position_changes_no_other",),
        (24,),
    ),
    Mutant(
        "all that read by one norm are told",
        "analysis/path_edges.py",
        "            if not read.shared:\n",
        "            if True:\n",
        "an edge is to one part alone",
        (f"{PATHS}::test_an_edge_into_attention_equals_two_traces_by_hand",),
    ),
    Mutant(
        "what comes later in the sender's layer hears nothing",
        "analysis/path_ways.py",
        "        if read.at in arrived:\n            return read.at\n",
        "",
        "an MLP reads the attention of its own layer",
        (f"{PATHS}::test_every_edge_of_a_llama_equals_the_forward_by_hand",),
    ),
    Mutant(
        "of heads that send together the last one does",
        "analysis/path_patching.py",
        "value = found.setdefault(end.place.name, mx.array(own[_key(end.place)]))",
        "value = found[end.place.name] = mx.array(own[_key(end.place)])",
        "senders of a group take their values at once",
        (f"{PATHS}::test_senders_together_equal_the_forward_by_hand",),
    ),
    Mutant(
        "an edge is another edge's number",
        "analysis/path_patching.py",
        "full[sender] if receiver is None else full[sender, :, receiver]",
        "full[sender] if receiver is None else full[sender, :, 0]",
        "an edge is the cell of its sender and its receiver",
        (f"{PATHS}::test_an_edge_is_the_cell_of_its_sender_and_its_receiver",),
    ),
    Mutant(
        "induction is looking at the same token",
        "analysis/head_scores.py",
        "[query - length + 1 for query in second]",
        "[query - length for query in second]",
        "an induction head looks at what came next",
        (f"{HEADS}::test_heads_built_by_hand_score_what_they_do",),
    ),
    Mutant(
        "batches of texts weigh alike",
        "analysis/head_scores.py",
        "np.asarray(shares, dtype=np.float64) * len(rows)",
        "np.asarray(shares, dtype=np.float64) * ROWS",
        "scores are means over all texts",
        (f"{HEADS}::test_scores_are_means_of_the_patterns",),
    ),
    Mutant(
        "random texts hold special tokens",
        "analysis/head_scores.py",
        "    return np.array(sorted(known - special))\n",
        "    return np.array(sorted(known))\n",
        "texts are of ordinary tokens",
        (f"{HEADS}::test_no_special_token_is_in_the_texts",),
    ),
)
