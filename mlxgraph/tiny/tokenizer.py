"""The byte-level BPE tokenizer of the embedded model, in the layout of Llama 3.

The merges are learned from the corpus, and the words of the corpus are entries of the vocabulary
in their own right: with `ignore_merges` a word the vocabulary knows is one token, whatever the
merges say. Any other text falls back to merges and then to bytes, so every text round trips.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from mlxgraph.tiny.corpus import words

BOS = "<|begin_of_text|>"
EOS = "<|end_of_text|>"
PAD = "<|pad|>"
SPECIALS = (BOS, EOS, PAD)
LEARNED = 100


def _byte_level() -> pre_tokenizers.ByteLevel:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def build_tokenizer() -> Tokenizer:
    """Learn merges from the words of the corpus, then give every word its own token."""
    corpus = words()
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = _byte_level()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + LEARNED, initial_alphabet=alphabet, show_progress=False
    )
    learner.train_from_iterator(corpus, trainer)
    learned = json.loads(learner.to_str())["model"]

    entries = sorted(learned["vocab"], key=learned["vocab"].get)
    known = set(entries)
    for word in corpus:
        pieces = _byte_level().pre_tokenize_str(word)
        if len(pieces) == 1 and pieces[0][0] not in known:
            entries.append(pieces[0][0])
            known.add(pieces[0][0])
    vocab = {entry: index for index, entry in enumerate((*SPECIALS, *entries))}
    merges = [tuple(merge) for merge in learned["merges"]]

    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.pre_tokenizer = _byte_level()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B:1", special_tokens=[(BOS, vocab[BOS])]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write `tokenizer.json` and the configuration `transformers` reads beside it."""
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 256,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
