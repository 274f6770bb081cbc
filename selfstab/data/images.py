"""Images: CIFAR-10 (Krizhevsky 2009), and its cats and dogs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from selfstab.data import samples, sources
from selfstab.data.samples import Dataset

FILES = {
    "train": tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("cifar-10-batches-bin/test_batch.bin",),
}
RECORD = 3073  # bytes of an image: label, then 32×32 red, green, blue
DOG = 5


def subset(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the canonical indices (m,) and records (m, 3073) of the images in this package.

    They are the first 1,000 (test: 500) images and the first 500 (test: 100) cats and dogs.  The file holds 4-byte
    indices, labels, and the three color planes, green and the others' differences from it, as differences along rows
    and columns modulo 256, which halves the compressed size.
    """
    raw = np.frombuffer(sources.subset(f"cifar10-{split}.xz"), np.uint8)
    m = len(raw) // (4 + RECORD)
    planes = raw[5 * m :].reshape(3, m, 32, 32).cumsum(axis=3, dtype=np.uint8).cumsum(axis=2, dtype=np.uint8)
    planes[::2] += planes[1]
    records = np.concatenate([raw[4 * m : 5 * m, None], planes.swapaxes(0, 1).reshape(m, RECORD - 1)], axis=1)
    return raw[: 4 * m].view("<i4").astype(np.int64), records


def parts(dataset: str, split: str, source: Path | None) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the canonical indices (m,), labels (m,) and records (m, 3073) that a source holds, file by file."""
    if source == sources.SUBSET:
        indices, records = subset(split)
        # Only the first images include all classes: those after the first gap are cats and dogs.
        known = indices == np.arange(len(indices)) if dataset == "cifar10" else slice(None)
        yield indices[known], records[known, 0], records[known]
        return
    start = 0
    for name in FILES[split]:
        records = np.frombuffer(sources.read(name, source), np.uint8).reshape(-1, RECORD)
        yield start + np.arange(len(records)), records[:, 0], records
        start += len(records)


def _pixels(records: np.ndarray, image_size: int) -> np.ndarray:
    """Return integer images (n, side, side, 3); at half size each value is the sum over a 2×2 square."""
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images if image_size == 32 else images.reshape(-1, 16, 2, 16, 2, 3).sum(axis=(2, 4), dtype=np.uint16)


def standardize(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return (x − mean)/std per channel, with mean and std over ``reference``; a constant channel becomes zero.

    Both are images (…, 3) of integers up to 1,020.  Sums of exact counts do not depend on their order.
    """
    values = np.arange(1021)
    out = np.empty(images.shape, np.float32)
    for channel in range(3):
        counts = np.bincount(reference[..., channel].ravel(), minlength=len(values))
        mean = (counts @ values) / counts.sum()
        std = np.sqrt(counts @ (values - mean) ** 2 / counts.sum())
        out[..., channel] = ((values - mean) / (std or 1.0)).astype(np.float32)[images[..., channel]]
    return out


def cifar10(n: int, split="train", *, folder=None, image_size=32, fit=None, dataset="cifar10") -> Dataset:
    """Return the first n images of CIFAR-10, ten classes.

    Args:
        n: Number of images.
        split: ``"train"`` or ``"test"``.
        folder: Folder in the canonical layout; default ``EOSLIB_DATA``, the subset here, a download, in this order.
        image_size: 32, or 16 for the means over 2×2 squares.
        fit: Number of training images whose mean and standard deviation standardize the images; default n.
        dataset: ``"cifar10"``, or ``"cats-dogs"`` for those alone.

    Raises:
        ValueError: on a wrong split, size or n, with the value received.
        DataError: when a file is missing, damaged or out of reach.
    """
    if image_size not in (16, 32):
        raise ValueError(f"image_size must be 16 or 32, got {image_size!r}")
    indices, labels, records = samples.first(dataset, n, split, parts, folder)
    images = reference = _pixels(records, image_size)
    if split != "train" or fit not in (None, n):
        fitted = samples.first(dataset, n if fit is None else fit, "train", parts, folder)
        reference = _pixels(fitted[2], image_size)
    targets = labels.astype(np.int32) if dataset == "cifar10" else np.where(labels == DOG, 1, -1).astype(np.float32)
    digest = hashlib.sha256(records.tobytes()).hexdigest()[:16]
    return Dataset(standardize(images, reference), targets, None, indices, digest)


def cifar10_cats_dogs(n: int, split="train", **options) -> Dataset:
    """Return the first n/2 cats (−1) and n/2 dogs (+1) of CIFAR-10, in canonical order; the rest as `cifar10`."""
    return cifar10(n, split, dataset="cats-dogs", **options)
