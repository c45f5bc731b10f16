"""Several processes that do one thing: who does what, and what each of them found.

A script runs in each process that `mlx.launch` started, and each of them is a rank.  A method of
many prompts shares them out here: the ranks agree on what is asked, each does its share, and all
of them get all answers, in the order of one process.

    together  the one thing that other rooms call
    world     which ranks there are, and who works alone
    share     who does what
    said      what ranks compare before they begin
    post      the thread that speaks to the others
    watch     how each rank learns that another has failed
    wire      values as bytes
    held      what a rank holds of a model that is itself spread
    parts     between a rank's part of a value and the whole of it

In: work in numbered pieces.  Out: what each piece gave.  Never: speaks where nothing was launched,
or over a group that a model computes with.
"""
