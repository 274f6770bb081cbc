"""Samples: the first ones of each label, from whichever source has them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from selfstab.data.sources import SUBSET, MissingError

#: Labels of which a data set takes equally many samples; ``None`` stands for any.
LABELS = {"cifar10": (None,), "cats-dogs": (3, 5), "sst2": (0, 1)}
#: Most samples that the canonical files hold (twice the rarer class for the balanced sets).
LARGEST = {
    "cifar10": {"train": 50_000, "test": 10_000},
    "cats-dogs": {"train": 10_000, "test": 2_000},
    "sst2": {"train": 59_560, "test": 856},
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Samples in canonical order, as numpy arrays.

    Attributes:
        inputs: Standardized images (n, side, side, 3) in float32, or word indices (n, t) in int32 with t ≤ 64.
        targets: (n,) classes in int32, or labels ±1 in float32 (cats −1, dogs +1; negative −1, positive +1).
        mask: (n, t), true at the real words; ``None`` for images.
        indices: (n,) index of each sample in the canonical files, counted from 0 through all batches.
        digest: SHA-256 (16 hex digits) of the bytes that the samples were made from.
    """

    inputs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray | None
    indices: np.ndarray
    digest: str

    @property
    def batch(self) -> tuple[np.ndarray, ...]:
        """``(inputs, targets)``, or ``(inputs, targets, mask)`` if there is a mask, as a per-sample loss takes them."""
        return (self.inputs, self.targets) if self.mask is None else (self.inputs, self.targets, self.mask)

    def resampled(self, seed: int) -> Dataset:
        """Return as many samples, drawn from these with replacement (a bootstrap sample); seed 0 returns these."""
        if seed == 0:
            return self
        drawn = np.sort(np.random.default_rng(seed).integers(len(self.indices), size=len(self.indices)))
        mask = None if self.mask is None else self.mask[drawn]
        digest = hashlib.sha256(self.digest.encode() + drawn.astype("<i8").tobytes()).hexdigest()[:16]
        return Dataset(self.inputs[drawn], self.targets[drawn], mask, self.indices[drawn], digest)


def _take(parts: Iterable[tuple], wanted: dict) -> tuple[np.ndarray, ...]:
    left, taken = dict(wanted), []
    for indices, labels, contents in parts:
        keep = np.zeros(len(labels), bool)
        for label, count in left.items():
            found = np.flatnonzero(np.ones(len(labels), bool) if label is None else labels == label)[:count]
            keep[found] = True
            left[label] -= len(found)
        taken.append((indices[keep], labels[keep], contents[keep]))
        if not any(left.values()):
            return tuple(map(np.concatenate, zip(*taken, strict=True)))
    raise MissingError(f"there are too few samples: of {wanted} (number by label), {left} are not there")


def first(dataset: str, n: int, split: str, parts: Callable, folder=None) -> tuple[np.ndarray, ...]:
    """Return indices, labels and contents of the first n samples: from a folder, else the subset, else a download.

    ``parts(dataset, split, source)`` yields the indices, labels and contents that a source holds, part by part, no more
    than needed.  The source is a folder in the canonical layout, ``SUBSET``, or ``None`` for the download cache.
    Without a folder, ``EOSLIB_DATA`` may name one.

    Raises:
        ValueError: on a wrong split or n, with the value received.
        DataError: when a file is missing, damaged or out of reach.
    """
    if split not in LARGEST[dataset]:
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be a positive integer, got {n!r}")
    if n > LARGEST[dataset][split]:
        raise ValueError(f"n={n} exceeds the {LARGEST[dataset][split]} samples of {dataset!r}, split {split!r}")
    labels = LABELS[dataset]
    if n % len(labels):
        raise ValueError(f"n must be even for the balanced data set {dataset!r}, got {n}")
    wanted = dict.fromkeys(labels, n // len(labels))
    folder = folder or os.environ.get("EOSLIB_DATA")
    preferred, other = (Path(folder), SUBSET) if folder else (SUBSET, None)
    try:
        return _take(parts(dataset, split, preferred), wanted)
    except MissingError as missing:
        try:
            return _take(parts(dataset, split, other), wanted)
        except MissingError:
            raise missing from None
