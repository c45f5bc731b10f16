"""Mutants: the code broken on purpose, one line at a time, and the tests that have to notice.

    python -m tests.mutants                     all of them, two at a time
    python -m tests.mutants --room graph        those of one room
    python -m tests.mutants --only NAME ...     one, or a few
    python -m tests.mutants --markdown FILE --json FILE

A mutant is a line of `of_graph.py`, `of_record.py` and so on: a file, a snippet of it that stands
there once, what to put in its place, the law that this breaks, and the tests that are to fail.
A mutant that survives is a law that nothing keeps: write the test, and leave the mutant.
"""
