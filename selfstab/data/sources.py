"""Sources of bytes: a folder of canonical files, the subset in this package, or a download.

Every file is checked against its SHA-256 before use, once per process as long as it is not touched.  No pickle is read.
"""

from __future__ import annotations

import contextlib
import functools
import lzma
import os
import tempfile
from pathlib import Path

import pooch

#: Published archive of each folder of the canonical layout: address and checksum.
ARCHIVES = {
    "cifar-10-batches-bin": (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    "SST-2": ("https://dl.fbaipublicfiles.com/glue/data/SST-2.zip", "md5:9f81648d4199384278b86e315dac217c"),
}
#: SHA-256 of the canonical files.
SHA256 = {
    "cifar-10-batches-bin/data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "cifar-10-batches-bin/data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "cifar-10-batches-bin/data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    # As torchvision-ruby publishes them, with the same sums of the archive and of the other four.
    "cifar-10-batches-bin/data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "cifar-10-batches-bin/data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "cifar-10-batches-bin/test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    "SST-2/train.tsv": "e981ceb4fe6c9acd1c79851d0d091b9e78103f1f2a399ca83dda27915d41c56c",
    "SST-2/dev.tsv": "84207e6be5873fb18db798cc6faec86871f5a426554650ff64a1c34e87665f6f",
}
#: Compressed files of the subset, and their SHA-256 (made by tests/make_subset.py, which prints them, but for BERT's).
SUBSET = Path(__file__).parent / "_subset"
SUBSET_SHA256 = {
    "cifar10-train.xz": "94024ccec1eb53b31a47ba0cbac7d140fc7a448114f4a2e531104f43904c5bb1",
    "cifar10-test.xz": "4b21edcf8ae4812662918f2242bf44a7b08c1989ea3c47cdb507df250a0da087",
    "sst2-train.xz": "8c48fb70521387bae28432be765e928dc8be15d305be9868f49ec9d29f4a7164",
    "sst2-test.xz": "d70203255323165b1b0299531d2c4eddebaa4f756478c31c8d4c4d7adbbc8f42",
    "bert-base-uncased.xz": "235d9905185f223a5fb2d98d0c93fccf859bde330c2d5115441a31609294eb8e",
}


class DataError(RuntimeError):
    """A data file is missing, damaged or out of reach; the message names it, what was expected and what to do."""


class MissingError(DataError):
    """A source lacks a file, or holds too few samples."""


@functools.cache
def _sha256(path: Path, time: int, size: int) -> str:
    return pooch.file_hash(path)


def _check(path: Path, expected: str, remedy: str) -> None:
    """Raise DataError unless a file has the expected checksum, which is computed again only if the file was touched."""
    stat = path.stat()
    if (found := _sha256(path.resolve(), stat.st_mtime_ns, stat.st_size)) != expected:
        raise DataError(
            f"{path} holds wrong or truncated bytes: {stat.st_size} bytes with SHA-256 {found}, expected SHA-256 "
            f"{expected}. {remedy}"
        )


def read(name: str, folder: Path | None) -> bytes:
    """Return the verified bytes of a canonical file, from a folder or (``None``) from the download cache.

    Raises:
        MissingError: when the folder lacks the file.
        DataError: when the file is damaged or cannot be downloaded.
    """
    url, checksum = ARCHIVES[name.split("/")[0]]
    if folder is None:
        return _download(name, url, checksum).read_bytes()
    path = folder / name
    if not path.is_file():
        raise MissingError(
            f"{path} is missing. Put it there from {url} (it unpacks to {name}), or unset EOSLIB_DATA and give no "
            "folder to have it downloaded."
        )
    _check(path, SHA256[name], f"Delete it and get it again from {url}.")
    return path.read_bytes()


def _download(name: str, url: str, checksum: str) -> Path:
    """Return the canonical file in the cache; unless its checksum is the known one, it is unpacked once more.

    What comes out of the archive is verified by the archive's checksum.
    """
    cache = Path(os.environ.get("EOSLIB_CACHE") or pooch.os_cache("eoslib")).expanduser().absolute()
    path = cache / name
    with contextlib.suppress(OSError, DataError):
        _check(path, SHA256[name], "")
        return path
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as unpacked:  # a half file never takes the name of a whole one
            extract = (pooch.Unzip if url.endswith(".zip") else pooch.Untar)([name], extract_dir=unpacked)
            pooch.retrieve(url, checksum, url.rsplit("/", 1)[1], cache, extract, progressbar=True)
            path.parent.mkdir(exist_ok=True)
            return Path(unpacked, name).replace(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"could not get {name} from {url} (checksum {checksum}): {error}. Without a network, put {name} into a "
            "folder yourself and set EOSLIB_DATA to that folder."
        ) from error


@functools.cache
def subset(name: str) -> bytes:
    """Return the verified and decompressed bytes of a file of the subset; DataError if it is damaged."""
    _check(SUBSET / name, SUBSET_SHA256[name], "Restore it from the repository or reinstall the package.")
    return lzma.decompress((SUBSET / name).read_bytes())
