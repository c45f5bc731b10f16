"""The laws that a mutant can name by number, and those that there is nothing to break in yet."""

from __future__ import annotations

CLAIMED: dict[int, str] = {
    1: "an identity edit at any site leaves the output unchanged",
    2: "writing back what was just read changes nothing",
    3: "patching every position with the clean run's gives the clean run",
    4: "the embedding and what attention and MLPs wrote add up to the stream before the final norm",
    5: "what parts add to a logit, the norm's scale fixed, adds up to it",
    6: "the lens of the last layer is the model's logits",
    7: "the heads' outputs through their columns of the projection add up to the attention's",
    8: "zeroing a head is zeroing its columns of the output projection",
    9: "a pattern's rows are shares of what a query may see, and make the heads of the values",
    10: "an edit at a position leaves the logits before it unchanged",
    12: "a row of a batch is its single run",
    13: "a left-padded, masked row is its unpadded run",
    14: "chunks with a cache are one prefill",
    15: "two prompts in one forward with a patch across are two separate passes",
    16: "a sweep is a loop of runs",
    17: "zeroing what a block's parts write is skipping the block",
    20: "removing a direction at every writer is taking it out of the weights, and twice is once",
    21: "a full-rank subspace swap is a patch; complementary subspaces make the whole",
    22: "editing a key-value head changes the heads of its group and no other",
    23: "a gradient is the slope of what an edit would do",
    24: "all edges out of a part are the part; where no path leads there is no effect",
    25: "compiled is eager, graphs compose and come back, every rewrite preserves what is computed",
    26: "every form of an input, and of a site's name, is one",
    27: "a graph that meets another length gives what recording it there gives, or raises",
    28: "a cache that is given is left as the bare forward leaves it",
    29: "a model that gives an object gives what it gives as a tuple",
    30: "a trace after a change of the model is a trace of the model as it is now",
    31: "a run of a sweep does not depend on the runs beside it",
    32: "an interrupt at any line leaves nothing behind",
}
_THE_MODELS_OWN = "arithmetic of the model's own, in which nothing of the library takes part"
NOT_YET: dict[int, str] = {
    11: _THE_MODELS_OWN,
    18: _THE_MODELS_OWN,
    19: _THE_MODELS_OWN,
}
