"""Mutants of `store/`: blocks, shards, indexes, what is compared, batches."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_TRACES = ("store/test_store.py::test_each_prompt_is_its_trace_alone",)
_BATCHES = ("store/test_store.py::test_batches_have_every_row_once",)

MUTANTS = (
    Mutant(
        "a shard is entered before it is whole",
        "store/shard.py",
        "write_all(self._file, self._head, 0)",
        "write_all(self._file, self._head[:-4], 0)",
        "a shard has all that its line says",
        _TRACES,
    ),
    Mutant(
        "rows that do not follow each other are written as if they did",
        "store/shard.py",
        "if runs and runs[-1][0] + runs[-1][1] == start:",
        "if runs:",
        "each prompt's rows lie at its own place",
        _TRACES,
    ),
    Mutant(
        "half a line of an index swallows the next",
        "store/index.py",
        'whole = b"\\n" + whole',
        "whole = whole",
        "half a line counts as none, and the next is one of its own",
        ("store/test_refused.py::test_half_a_line_of_an_index_counts_as_none",),
    ),
    Mutant(
        "what a line says of itself is not compared",
        "store/index.py",
        "if zlib.crc32(_dumped(line).encode()) == check:",
        "if line:",
        "a line that a disk has spoilt counts as none",
        ("store/test_refused.py::test_a_line_that_a_disk_has_spoilt_counts_as_none",),
    ),
    Mutant(
        "a shard without its line stays",
        "store/writer.py",
        "                shard.unlink()",
        "                pass",
        "what a kill leaves is done again, and nothing is there twice",
        ("store/test_refused.py::test_a_shard_that_no_index_has_is_deleted",),
    ),
    Mutant(
        "prompts that are there are not compared",
        "store/writer.py",
        "if there.digest != block.digest:",
        "if False:",
        "a folder of other prompts is refused",
        ("store/test_refused.py::test_other_prompts_are_refused_where_the_run_was_stopped",),
    ),
    Mutant(
        "the latest shard is not read through",
        "store/writer.py",
        "(is_as_written if entry is latest else is_whole)",
        "(is_whole)",
        "a shard that the machine's end has spoilt is redone",
        ("store/test_refused.py::test_a_torn_shard_is_found_and_redone",),
    ),
    Mutant(
        "every rank computes every block",
        "store/writer.py",
        "if block.number % self._world != self._rank:",
        "if False:",
        "ranks share the blocks",
        ("store/test_store.py::test_ranks_share_a_folder_and_the_reader_orders_prompts",),
    ),
    Mutant(
        "positions are no part of what a block is",
        "store/blocks.py",
        "found.update(row.tobytes() + prompt.positions.tobytes())",
        "found.update(row.tobytes())",
        "a function of positions is known by what it gives",
        ("store/test_refused.py::test_a_function_is_known_by_what_it_gives",),
    ),
    Mutant(
        "a batch that is not full when a buffer ends is dropped",
        "store/batches.py",
        "                    if filled == self._size:",
        "                    if filled == self._size or at == len(order):",
        "every batch but the last is full",
        _BATCHES,
    ),
    Mutant(
        "weights are no part of what a model is",
        "analysis/fingerprint.py",
        'found.update(f"{name} {weight.dtype} {weight.shape} {check}\\n".encode())',
        'found.update(f"{name} {weight.dtype} {weight.shape}\\n".encode())',
        "a folder of a model with other weights is refused",
        ("store/test_refused.py::test_another_model_is_refused",),
    ),
    Mutant(
        "padding is not counted",
        "analysis/rows_of.py",
        "at + (longest - len(row)) for row, at in zip(rows, positions, strict=True)",
        "at for row, at in zip(rows, positions, strict=True)",
        "each prompt's rows are its own, whatever else is in its batch",
        _TRACES,
    ),
)
