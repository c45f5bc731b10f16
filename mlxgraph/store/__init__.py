"""Activations on disk: safetensors files in a folder, written as they come, read in slices.

In: prompts as rows of token ids, and arrays of activations.  Out: a folder, and an
`ActivationStore` that reads it back.  Never: runs a model, keeps more than a few batches in memory.

A folder, which several processes may share:

    manifest.json                          what was asked (the question), how prompts are cut into
                                           blocks, each site's dtype and shape.  Written once, by
                                           whoever comes first; all others compare, and raise.
    rank000-block00000012.safetensors      one shard: all sites of one block of prompts
    index-rank000.jsonl                    a line for each shard of this rank, added when the shard
                                           is whole and on the disk; the last line says how many
                                           prompts there were in all
    rank000.partial                        the shard that rank 0 is writing
    rank000.lock                           held while a process of rank 0 runs

Blocks.  The stream of prompts is cut into blocks of consecutive prompts, numbered from 0, by rules
that depend on the prompts and the manifest alone (`blocks.cut`): however many processes there are,
and however often they are started again, block 12 holds the same prompts.  A block is what is
shared out, what one shard holds, and what is done again after a kill.

Ranks.  Every rank walks the whole stream, and computes the blocks that are its own: those that no
rank's index has, and whose number modulo `world` is its rank.  No rank writes a file of another's,
so nothing is shared but the manifest, and `world` may be another one when a run is started again.
A rank that has walked to the end adds a line with the numbers of prompts and blocks, and a hash of
all.  The store is finished when an index has such a line and each block is in some index.

A kill at any moment leaves whole shards that an index has, and beside them perhaps a partial one, a
whole one without its line, and half a line: these are ignored, and done again.

Reading.  The reader takes the lines of all indexes, and orders shards by their first prompt: which
rank wrote what, in which order, does not show.
"""
