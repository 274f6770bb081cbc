"""Sentences: the labeled movie reviews of SST-2 (Socher et al. 2013), as indices of words or of BERT's word pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from selfstab.data import samples, sources
from selfstab.data.samples import Dataset

FILES = {"train": "SST-2/train.tsv", "test": "SST-2/dev.tsv"}
MAX_TOKENS = 64
VOCABULARY = 4096  # words kept, the most frequent first; 0 is padding, 1 any other word


def parts(dataset: str, split: str, source: Path | None) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the canonical indices, labels 0/1 and sentences that a source holds, (m,) each."""
    if source == sources.SUBSET:
        rows = [row.split("\t", 2) for row in sources.subset(f"{dataset}-{split}.xz").decode()[:-1].split("\n")]
    else:
        header, *lines = sources.read(FILES[split], source).decode().rstrip("\n").split("\n")
        order = -1 if header.startswith("sentence\tlabel") else 1  # copies differ in it
        rows = [(index, *line.split("\t")[::order]) for index, line in enumerate(lines)]
    indices, labels, sentences = zip(*rows, strict=True)
    yield np.array(indices, int), np.array(labels, int), np.array(sentences, object)


def encode(sentences: Iterable[str], fitted: Iterable[str], vocabulary=VOCABULARY) -> tuple[np.ndarray, np.ndarray]:
    """Return the word indices (n, t) in int32, padded with 0 to the longest, and the mask (n, t) of the real words.

    Words are lower-cased and separated by blanks; at most 64 per sentence are kept.  Their indices are in the order of
    their frequency among the ``fitted`` sentences, with ties in alphabetical order.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["[PAD]", "[UNK]"]
    trainer = trainers.WordLevelTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(fitted, trainer)
    return _padded(tokenizer, sentences)


def encode_pieces(sentences: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices (n, t) of BERT's uncased word pieces, as :func:`encode`, with its marks of start and end."""
    pieces = sources.subset("bert-base-uncased.xz").decode().splitlines()
    indices = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(indices, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(mark, indices[mark]) for mark in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    return _padded(tokenizer, sentences)


def _padded(tokenizer: Tokenizer, sentences: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    tokenizer.enable_truncation(MAX_TOKENS)
    words = [tokenizer.encode(sentence).ids for sentence in sentences]
    mask = np.arange(max(map(len, words))) < np.array([[len(w)] for w in words])  # (n, t)
    inputs = np.zeros(mask.shape, np.int32)
    inputs[mask] = np.concatenate(words)
    return inputs, mask


def sst2(n: int, split="train", *, folder=None, fit=None, pieces=False) -> Dataset:
    """Return the first n/2 negative (−1) and n/2 positive (+1) sentences of SST-2, in canonical order.

    ``split="test"`` is the published development set (the published test set has no labels).  The vocabulary is that of
    the ``fit`` first training sentences (default n), or with ``pieces`` BERT's.  Other arguments and errors as
    `cifar10`.
    """
    indices, labels, sentences = fitted = samples.first("sst2", n, split, parts, folder)
    if split != "train" or fit not in (None, n):
        fitted = samples.first("sst2", n if fit is None else fit, "train", parts, folder)
    inputs, mask = encode_pieces(sentences) if pieces else encode(sentences, fitted[2])
    raw = "".join(f"{label}\t{sentence}\n" for label, sentence in zip(labels, sentences, strict=True))
    digest = hashlib.sha256(raw.encode()).hexdigest()[:16]
    return Dataset(inputs, (2 * labels - 1).astype(np.float32), mask, indices, digest)
