"""Training data: the first n images of CIFAR-10, its cats and dogs, and balanced sentences of SST-2.

Bytes come from the first of these that has them: the folder given by argument or ``EOSLIB_DATA`` (canonical layout:
``cifar-10-batches-bin/data_batch_1.bin``, ``SST-2/train.tsv``, …); the small subset inside this package, enough for
every quick setting; a download of the published archives into ``EOSLIB_CACHE``.  All give the same arrays bit for bit.
Every file is checked against its SHA-256 before use, once per process as long as it is not touched.  No pickle is read.

Images are standardised per channel over the *training* images asked for; test images by the statistics of the ``fit``
first training images.  Likewise the vocabulary of SST-2 is that of the training sentences.  Samples are in the order of
the canonical files, classes mixed as they come there.

>>> data = cifar10_cats_dogs(10)
>>> data.inputs.shape, data.targets.tolist()[:4], data.indices.tolist()[:4]
((10, 32, 32, 3), [-1.0, -1.0, -1.0, -1.0], [9, 17, 21, 26])
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
import lzma
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pooch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from selfstab.settings import Setting

#: Published archive of each folder of the canonical layout: address and checksum.
ARCHIVES = {
    "cifar-10-batches-bin": (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    "SST-2": ("https://dl.fbaipublicfiles.com/glue/data/SST-2.zip", "md5:9f81648d4199384278b86e315dac217c"),
}

#: SHA-256 of the canonical files.  Training batches 4 and 5 are checked through the archive that they come from.
SHA256 = {
    "cifar-10-batches-bin/data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "cifar-10-batches-bin/data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "cifar-10-batches-bin/data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "cifar-10-batches-bin/test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    "SST-2/train.tsv": "e981ceb4fe6c9acd1c79851d0d091b9e78103f1f2a399ca83dda27915d41c56c",
    "SST-2/dev.tsv": "84207e6be5873fb18db798cc6faec86871f5a426554650ff64a1c34e87665f6f",
}

#: SHA-256 of the subset's files (made by tests/make_subset.py, which prints them).
SUBSET_SHA256 = {
    "cifar10-train.xz": "94024ccec1eb53b31a47ba0cbac7d140fc7a448114f4a2e531104f43904c5bb1",
    "cifar10-test.xz": "4b21edcf8ae4812662918f2242bf44a7b08c1989ea3c47cdb507df250a0da087",
    "sst2-train.xz": "8c48fb70521387bae28432be765e928dc8be15d305be9868f49ec9d29f4a7164",
    "sst2-test.xz": "d70203255323165b1b0299531d2c4eddebaa4f756478c31c8d4c4d7adbbc8f42",
}

IMAGE_FILES = {
    "train": tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("cifar-10-batches-bin/test_batch.bin",),
}
SENTENCE_FILES = {"train": "SST-2/train.tsv", "test": "SST-2/dev.tsv"}

#: Most samples that the canonical files hold (twice the rarer class for the balanced sets).
LARGEST = {
    "cifar10": {"train": 50_000, "test": 10_000},
    "cats-dogs": {"train": 10_000, "test": 2_000},
    "sst2": {"train": 59_560, "test": 856},
}
#: Test samples that ``load`` takes when not told, below paper scale: what the subset holds.
TEST_SAMPLES = {"cifar10": 500, "cats-dogs": 200, "sst2": 200}

BATCH, RECORD = (10_000, 3073)  # records of a CIFAR-10 file; bytes of a record: label, then 32×32 red, green, blue
CAT, DOG = 3, 5
MAX_TOKENS = 64
VOCABULARY = 4096  # words kept, the most frequent first; 0 is padding, 1 any other word


class DataError(RuntimeError):
    """A data file is missing, damaged or out of reach; the message names it, what was expected and what to do."""


class _Missing(DataError):
    pass


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Samples in canonical order, as numpy arrays.

    Attributes:
        inputs: Standardised images (n, side, side, 3) in float32, or word indices (n, t) in int32 with t ≤ 64.
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
        """``(inputs, targets)``, with the mask as a third where there is one: what a per-sample loss takes."""
        return (self.inputs, self.targets) if self.mask is None else (self.inputs, self.targets, self.mask)


# --- files ------------------------------------------------------------------------------------------------------------

_VERIFIED: set[tuple] = set()


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _label_first(raw: bytes) -> bytes:
    """A table of sentences with its columns in the order label, sentence: copies differ in that order."""
    if not raw.startswith(b"sentence\tlabel"):
        return raw
    return b"\n".join(b"\t".join(reversed(line.split(b"\t"))) for line in raw.split(b"\n"))


def _recorded(root: Path) -> dict[str, str]:
    """Checksums by file name from ``SHA256SUMS`` in a folder, if there is one."""
    sums = root / "SHA256SUMS"
    lines = sums.read_text().splitlines() if sums.is_file() else []
    pairs = [line.split() for line in lines]
    return {pair[1].lstrip("*"): pair[0] for pair in pairs if len(pair) == 2}


def _read(name: str, folder: Path | None) -> bytes:
    """Verified bytes of a canonical file, from a folder or (``None``) from the download cache.

    Raises:
        DataError: when the file is missing, damaged, without a known checksum, or cannot be downloaded.
    """
    root = _downloaded(name) if folder is None else folder
    path, (url, _) = root / name, ARCHIVES[name.split("/")[0]]
    if not path.is_file():
        raise _Missing(
            f"{path} is missing. Put it there from {url} (it unpacks to {name}), or unset EOSLIB_DATA and give no "
            "folder to have it downloaded."
        )
    raw, stat = path.read_bytes(), path.stat()
    raw = _label_first(raw) if name.endswith(".tsv") else raw
    key = (str(path.resolve()), stat.st_mtime_ns, stat.st_size)
    if key not in _VERIFIED:
        known = _recorded(root) if folder is None or name not in SHA256 else {}
        expected = [digest for digest in (SHA256.get(name), known.get(name)) if digest]
        if not expected:
            raise DataError(
                f"no SHA-256 is known for {path}. Unset EOSLIB_DATA and give no folder to have {url} downloaded and "
                f"verified as a whole, or put the file's line of `sha256sum` into {root / 'SHA256SUMS'}."
            )
        if _sha256(raw) not in expected:
            raise DataError(
                f"{path} holds wrong or truncated bytes: {stat.st_size} bytes with SHA-256 {_sha256(raw)}, expected "
                f"SHA-256 {expected[0]}. Delete it and get it again from {url}."
            )
        _VERIFIED.add(key)
    return raw


def _downloaded(name: str) -> Path:
    """Cache folder in which the canonical file lies, downloaded and unpacked first if need be."""
    cache = Path(os.environ.get("EOSLIB_CACHE") or pooch.os_cache("eoslib"))
    if name in _recorded(cache) and (cache / name).is_file():
        return cache
    url, checksum = ARCHIVES[name.split("/")[0]]
    parents = [folder for folder in ((cache / name).parent, cache) if not folder.exists()]
    try:
        archive = pooch.retrieve(url, checksum, fname=url.rsplit("/", 1)[1], path=cache, progressbar=True)
        _unpack(Path(archive), name, cache)
    except (OSError, ValueError, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(
            f"could not get {name} from {url} (checksum {checksum}): {error}. Without a network, put {name} into a "
            "folder yourself and set EOSLIB_DATA to that folder."
        ) from error
    finally:
        for folder in parents:  # what this call made and left empty
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    return cache


def _member(archive: Path, name: str) -> bytes:
    """One member of an archive."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            return packed.read(name)
    with tarfile.open(archive) as packed:
        return packed.extractfile(name).read()


def _unpack(archive: Path, name: str, cache: Path) -> None:
    """Unpack one member, atomically, and record its checksum (the archive's own has been verified)."""
    raw = _member(archive, name)
    (cache / name).parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=(cache / name).parent)
    try:
        with os.fdopen(handle, "wb") as target:
            target.write(raw)
        os.replace(partial, cache / name)
    finally:
        Path(partial).unlink(missing_ok=True)
    with open(cache / "SHA256SUMS", "a") as sums:
        sums.write(f"{_sha256(_label_first(raw) if name.endswith('.tsv') else raw)}  {name}\n")


@functools.cache
def _subset(name: str) -> bytes:
    """Verified and decompressed bytes of a file of the subset in this package."""
    path = importlib.resources.files("selfstab.data") / "_subset" / name
    raw = path.read_bytes()
    if _sha256(raw) != SUBSET_SHA256[name]:
        raise DataError(
            f"{path} holds wrong or truncated bytes: SHA-256 {_sha256(raw)}, expected {SUBSET_SHA256[name]}. "
            "Restore it from the repository or reinstall the package."
        )
    return lzma.decompress(raw)


# --- selection --------------------------------------------------------------------------------------------------------


def _first(labels: np.ndarray, wanted: dict) -> np.ndarray:
    """Positions of the first samples of each label; ``wanted`` (count by label, ``None`` for any) is counted down."""
    keep = np.zeros(len(labels), bool)
    for label, count in wanted.items():
        found = np.flatnonzero(np.ones(len(labels), bool) if label is None else labels == label)[:count]
        keep[found] = True
        wanted[label] = count - len(found)
    return np.flatnonzero(keep)


def _check(n: int, split: str, dataset: str) -> None:
    if split not in LARGEST[dataset]:
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be a positive integer, got {n!r}")
    if n > LARGEST[dataset][split]:
        raise ValueError(f"n={n} exceeds the {LARGEST[dataset][split]} samples of {dataset!r}, split {split!r}")
    if dataset != "cifar10" and n % 2:
        raise ValueError(f"n must be even for the balanced data set {dataset!r}, got {n}")


def _choose(canonical, subset, folder):
    """Samples from the folder, else the subset, else a download; ``subset()`` is ``None`` where it has too few."""
    folder = folder or os.environ.get("EOSLIB_DATA")
    if not folder:
        return canonical(None) if (found := subset()) is None else found
    try:
        return canonical(Path(folder))
    except _Missing:
        if (found := subset()) is None:
            raise
        return found


def _images(dataset: str, n: int, split: str, folder) -> tuple[np.ndarray, np.ndarray]:
    """Indices (n,) and canonical records (n, 3073) in uint8 of the first images, or of the first cats and dogs."""
    _check(n, split, dataset)
    wanted = {None: n} if dataset == "cifar10" else {CAT: n // 2, DOG: n // 2}

    def canonical(root: Path | None):
        left, indices, records = dict(wanted), [], []
        for number, name in enumerate(IMAGE_FILES[split]):
            batch = np.frombuffer(_read(name, root), np.uint8).reshape(-1, RECORD)
            found = _first(batch[:, 0], left)
            indices.append(number * BATCH + found)
            records.append(batch[found])
            if not any(left.values()):
                break
        return np.concatenate(indices), np.concatenate(records)

    def subset():
        indices, records = subset_images(split)
        left = dict(wanted)
        found = _first(records[:, 0], left)
        complete = dataset != "cifar10" or np.array_equal(indices[found], np.arange(n))
        return (indices[found], records[found]) if complete and not any(left.values()) else None

    return _choose(canonical, subset, folder)


def subset_images(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Canonical indices (m,) and records (m, 3073) of the images in this package.

    They hold the first 1,000 (test: 500) images and the first 500 (test: 100) cats and dogs.  The file holds 4-byte
    indices, labels, and the three colour planes, green and the others' difference to it, as differences along rows and
    columns modulo 256: that halves the compressed size.
    """
    raw = np.frombuffer(_subset(f"cifar10-{split}.xz"), np.uint8)
    m = len(raw) // (4 + RECORD)
    planes = raw[5 * m :].reshape(3, m, 32, 32).cumsum(axis=3, dtype=np.uint8).cumsum(axis=2, dtype=np.uint8)
    planes[::2] += planes[1]
    records = np.concatenate([raw[4 * m : 5 * m, None], planes.swapaxes(0, 1).reshape(m, -1)], axis=1)
    return raw[: 4 * m].view("<i4").astype(np.int64), records


def _rows(table: str) -> tuple[np.ndarray, list[str]]:
    labels, sentences = zip(*(line.split("\t", 1) for line in table.rstrip("\n").split("\n")), strict=True)
    return np.array(labels, int), list(sentences)


def _sentences(n: int, split: str, folder) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Indices, labels 0/1 and sentences of the first n/2 of each label."""
    _check(n, split, "sst2")

    def pick(indices, labels, sentences):
        left = {0: n // 2, 1: n // 2}
        found = _first(labels, left)
        return None if any(left.values()) else (indices[found], labels[found], [sentences[i] for i in found])

    def canonical(root: Path | None):
        table = _label_first(_read(SENTENCE_FILES[split], root)).decode().split("\n", 1)[1]
        labels, sentences = _rows(table)
        return pick(np.arange(len(labels)), labels, sentences)

    def subset():
        indices, rest = _rows(_subset(f"sst2-{split}.xz").decode())
        return pick(indices, *_rows("\n".join(rest)))

    return _choose(canonical, subset, folder)


# --- data sets --------------------------------------------------------------------------------------------------------


def _pixels(records: np.ndarray, image_size: int) -> np.ndarray:
    """Integer images (n, side, side, 3); at half size each value is the sum over a 2×2 square."""
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    if image_size == 32:
        return images
    return images.reshape(-1, 16, 2, 16, 2, 3).sum(axis=(2, 4), dtype=np.uint16)


def _standardised(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Per channel (x − mean)/std, mean and std over ``reference``: from exact counts, so the order of sums is moot."""
    values = np.arange(1021)
    out = np.empty(images.shape, np.float32)
    for channel in range(3):
        counts = np.bincount(reference[..., channel].ravel(), minlength=len(values))
        mean = (counts @ values) / counts.sum()
        std = np.sqrt(counts @ (values - mean) ** 2 / counts.sum())
        out[..., channel] = ((values - mean) / (std or 1.0)).astype(np.float32)[images[..., channel]]
    return out


def _image_set(dataset: str, n: int, split: str, folder, image_size: int, fit: int | None) -> Dataset:
    if image_size not in (16, 32):
        raise ValueError(f"image_size must be 16 or 32, got {image_size!r}")
    indices, records = _images(dataset, n, split, folder)
    images = reference = _pixels(records, image_size)
    if split != "train" or fit not in (None, n):
        reference = _pixels(_images(dataset, n if fit is None else fit, "train", folder)[1], image_size)
    labels = records[:, 0]
    targets = labels.astype(np.int32) if dataset == "cifar10" else np.where(labels == DOG, 1, -1).astype(np.float32)
    return Dataset(_standardised(images, reference), targets, None, indices, _sha256(records.tobytes())[:16])


def cifar10(n: int, split: str = "train", *, folder=None, image_size: int = 32, fit: int | None = None) -> Dataset:
    """The first n images of CIFAR-10 (Krizhevsky 2009), ten classes.

    Args:
        n: Number of images.
        split: ``"train"`` or ``"test"``.
        folder: Folder in the canonical layout; default ``EOSLIB_DATA``, the subset here, a download, in this order.
        image_size: 32, or 16 for the means over 2×2 squares.
        fit: Number of training images whose mean and standard deviation standardise the images; default n.

    Raises:
        ValueError: on a wrong split, size or n, with the value received.
        DataError: when a file is missing, damaged or out of reach.
    """
    return _image_set("cifar10", n, split, folder, image_size, fit)


def cifar10_cats_dogs(
    n: int, split: str = "train", *, folder=None, image_size: int = 32, fit: int | None = None
) -> Dataset:
    """The first n/2 cats (−1) and n/2 dogs (+1) of CIFAR-10, in canonical order; arguments and errors as `cifar10`."""
    return _image_set("cats-dogs", n, split, folder, image_size, fit)


@functools.lru_cache(maxsize=4)
def _tokenizer(sentences: tuple[str, ...]) -> Tokenizer:
    """Word-level tokenizer of lower-cased, blank-separated words; ties in frequency are in alphabetical order."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["[PAD]", "[UNK]"]
    trainer = trainers.WordLevelTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def sst2(n: int, split: str = "train", *, folder=None, fit: int | None = None) -> Dataset:
    """The first n/2 negative (−1) and n/2 positive (+1) sentences of SST-2 (Socher et al. 2013), in canonical order.

    Sentences are cut at 64 words and padded with 0 to the longest.  ``split="test"`` is the published development set
    (the published test set has no labels).  The vocabulary is that of the ``fit`` first training sentences (default n).
    Other arguments and errors as :func:`cifar10`.
    """
    indices, labels, sentences = _sentences(n, split, folder)
    fitted = sentences
    if split != "train" or fit not in (None, n):
        fitted = _sentences(n if fit is None else fit, "train", folder)[2]
    tokenizer = _tokenizer(tuple(fitted))
    words = [tokenizer.encode(sentence).ids for sentence in sentences]
    mask = np.arange(max(map(len, words))) < np.array([[len(w)] for w in words])
    inputs = np.zeros(mask.shape, np.int32)
    inputs[mask] = np.concatenate(words)
    raw = "".join(f"{label}\t{sentence}\n" for label, sentence in zip(labels, sentences, strict=True))
    return Dataset(inputs, (2 * labels - 1).astype(np.float32), mask, indices, _sha256(raw.encode())[:16])


def load(setting: Setting, split: str = "train", n: int | None = None, folder=None) -> Dataset:
    """The data of a setting, with labels in the form that its criterion takes.

    Test data are standardised, or encoded, by the statistics of the setting's own training data.  ``n`` defaults to the
    setting's for training and, for test, to everything at paper scale and :data:`TEST_SAMPLES` below.

    Raises:
        ValueError, DataError: as :func:`cifar10`.
    """
    if n is None and split == "test":
        n = (LARGEST[setting.dataset] if setting.scale == "paper" else {"test": TEST_SAMPLES[setting.dataset]})["test"]
    n = setting.n if n is None else n
    if setting.dataset == "sst2":
        data = sst2(n, split, folder=folder, fit=setting.n)
    else:
        data = _image_set(setting.dataset, n, split, folder, setting.image_size, setting.n)
    if setting.criterion == "cross-entropy" and setting.dataset != "cifar10":
        data = dataclasses.replace(data, targets=(data.targets > 0).astype(np.int32))
    return data
