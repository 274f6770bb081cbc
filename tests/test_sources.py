"""Sources of data: a folder, the subset, downloads from a local server; what is missing or damaged is named."""

import dataclasses
import functools
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pooch
import pytest

from selfstab import data
from selfstab.data import images, sentences, sources

CIFAR = "cifar-10-batches-bin"


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """No folder, an empty cache, no network, no subset read yet."""
    monkeypatch.delenv("EOSLIB_DATA", raising=False)
    monkeypatch.setenv("EOSLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "ARCHIVES", dict.fromkeys(sources.ARCHIVES, ("http://127.0.0.1:9/none.zip", "md5:0")))
    sources.subset.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in the canonical layout with five small batches, its checksums taken as the published ones."""
    root = tmp_path / "canonical"
    rng = np.random.default_rng(0)
    rows = {name: b"".join(b"%d\tword%d and more \n" % (i % 2, i) for i in range(n)) for name, n in SENTENCES.items()}
    contents = {name: b"label\tsentence\n" + table for name, table in rows.items()}
    for name in [*images.FILES["train"], *images.FILES["test"]]:
        records = rng.integers(0, 256, (20, images.RECORD)).astype(np.uint8)
        records[:, 0] = np.arange(20) % 10  # two cats and two dogs a batch
        contents[name] = records.tobytes()
    for name, raw in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(raw)
    monkeypatch.setattr(sources, "SHA256", {name: hashlib.sha256(raw).hexdigest() for name, raw in contents.items()})
    return root


SENTENCES = {sentences.FILES["train"]: 40, sentences.FILES["test"]: 12}


def _same(a: data.Dataset, b: data.Dataset) -> None:
    np.testing.assert_equal(dataclasses.asdict(a), dataclasses.asdict(b))


def _damage(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(0, 1))  # a clock too coarse to see the change must not hide it here


# --- the subset -------------------------------------------------------------------------------------------------------


def test_the_subset_is_small():
    assert {path.name for path in sources.SUBSET.iterdir()} >= set(sources.SUBSET_SHA256)
    assert sum(path.stat().st_size for path in sources.SUBSET.iterdir()) <= 5_000_000


def test_a_changed_byte_of_the_subset_is_found(monkeypatch):
    monkeypatch.setitem(sources.SUBSET_SHA256, "sst2-test.xz", "0" * 64)
    with pytest.raises(data.DataError, match=r"sst2-test\.xz holds wrong or truncated bytes: .* SHA-256 .*Restore it"):
        data.sst2(10, "test")


def test_no_pickle_is_read(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert len(data.cifar10(10).targets) == len(data.sst2(10).targets) == 10


# --- a folder ---------------------------------------------------------------------------------------------------------


def test_only_the_batches_that_are_needed_are_read(folder):
    (folder / CIFAR / "data_batch_3.bin").unlink()
    loaded = data.cifar10_cats_dogs(8, folder=folder)
    assert loaded.indices.tolist() == [3, 5, 13, 15, 23, 25, 33, 35]
    assert loaded.targets.tolist() == [-1, 1] * 4
    assert data.cifar10(21, folder=folder).targets[-1] == 0


def test_the_environment_names_the_folder(folder, monkeypatch):
    explicit = data.cifar10(10, folder=folder)
    assert explicit.digest != data.cifar10(10).digest
    monkeypatch.setenv("EOSLIB_DATA", str(folder))
    _same(data.cifar10(10), explicit)


def test_the_subset_serves_what_the_folder_lacks(folder):
    (folder / CIFAR / "data_batch_1.bin").unlink()
    _same(data.cifar10(10, folder=folder), data.cifar10(10))


@pytest.mark.parametrize(
    ("name", "load"),
    [
        (f"{CIFAR}/data_batch_1.bin", lambda root: data.cifar10(1001, folder=root)),
        ("SST-2/train.tsv", lambda root: data.sst2(2000, folder=root)),
    ],
)
def test_a_missing_file_is_named_with_how_to_get_it(folder, name, load):
    (folder / name).unlink()
    where = name.replace(".", r"\.")
    with pytest.raises(data.DataError, match=rf"{where} is missing\. Put it there from http.*unset EOSLIB_DATA"):
        load(folder)


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw[:9] + b"\x00" + raw[10:], lambda raw: b""])
@pytest.mark.parametrize(
    ("name", "load"),
    [
        (f"{CIFAR}/data_batch_1.bin", lambda root: data.cifar10(5, folder=root)),
        (f"{CIFAR}/test_batch.bin", lambda root: data.cifar10(5, "test", folder=root)),
        ("SST-2/dev.tsv", lambda root: data.sst2(4, "test", folder=root)),
    ],
)
def test_wrong_or_truncated_bytes_stop_with_the_name_of_the_file(folder, name, load, change):
    load(folder)
    _damage(folder / name, change)
    message = rf"{Path(name).name} holds wrong or truncated bytes: \d+ bytes with .* expected SHA-256 .* Delete it"
    with pytest.raises(data.DataError, match=message):
        load(folder)


def test_a_file_is_verified_once_until_it_is_touched(folder, monkeypatch):
    hashed, true_hash = [], pooch.file_hash
    monkeypatch.setattr(pooch, "file_hash", lambda path: hashed.append(Path(path).name) or true_hash(path))
    for _ in range(2):
        data.cifar10(20, folder=folder)
    assert hashed == ["data_batch_1.bin"]
    os.utime(folder / CIFAR / "data_batch_1.bin", ns=(0, 1))
    data.cifar10(20, folder=folder)
    assert hashed == ["data_batch_1.bin"] * 2


# --- downloads --------------------------------------------------------------------------------------------------------


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; breaks off in the middle of a file whose name says so."""

    def log_message(self, *args):
        self.server.requested.append(self.path)

    def do_GET(self):
        if "broken" not in self.path:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"x" * 5000)
        self.log_message()


@pytest.fixture
def published(folder, tmp_path, monkeypatch):
    """Archives of the folder on a local server, in the place of the published ones; yields the server."""
    site = tmp_path / "site"
    site.mkdir()
    with tarfile.open(site / "cifar.tar.gz", "w:gz") as packed:
        packed.add(folder / CIFAR, CIFAR)
    with zipfile.ZipFile(site / "sst.zip", "w") as packed:
        for name in SENTENCES:
            packed.write(folder / name, name)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=site))
    server.requested, server.site, server.address = [], site, f"http://127.0.0.1:{server.server_address[1]}"
    # An empty subset: everything has to be downloaded.
    monkeypatch.setattr(sources, "subset", lambda name: b"0\t0\tx\n" if name.startswith("sst2") else b"")
    _publish(server, monkeypatch, "cifar.tar.gz", "sst.zip")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _publish(server, monkeypatch, images_file: str, sentences_file: str) -> None:
    """Take the archives of the site for the published ones, with their checksums."""
    sha = hashlib.sha256((server.site / images_file).read_bytes()).hexdigest()
    md5 = hashlib.md5((server.site / sentences_file).read_bytes()).hexdigest()
    archives = {
        CIFAR: (f"{server.address}/{images_file}", f"sha256:{sha}"),
        "SST-2": (f"{server.address}/{sentences_file}", f"md5:{md5}"),
    }
    monkeypatch.setattr(sources, "ARCHIVES", archives)


def _left(tmp_path):
    return sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "cache").rglob("*"))


def test_a_download_gives_the_same_and_happens_once(published, folder, tmp_path):
    _same(data.cifar10(70), data.cifar10(70, folder=folder))
    _same(data.sst2(20), data.sst2(20, folder=folder))
    assert published.requested == ["/cifar.tar.gz", "/sst.zip"]
    unpacked = [f"cache/{CIFAR}/data_batch_{i}.bin" for i in range(1, 5)]
    expected = ["cache/SST-2", "cache/SST-2/train.tsv", f"cache/{CIFAR}", *unpacked]
    assert _left(tmp_path) == sorted([*expected, "cache/cifar.tar.gz", "cache/sst.zip"])
    data.cifar10(100)  # batch 5 comes out of the archive that is there
    assert len(published.requested) == 2


def test_the_cache_may_be_named_from_where_one_stands(published, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EOSLIB_CACHE", "cache")
    _same(data.cifar10(10), data.cifar10(10, folder=folder))
    assert _left(tmp_path) == ["cache/cifar-10-batches-bin", f"cache/{CIFAR}/data_batch_1.bin", "cache/cifar.tar.gz"]


def test_an_unpacked_file_needs_no_archive(published, folder, tmp_path):
    loaded = data.cifar10(10)
    (tmp_path / "cache/cifar.tar.gz").unlink()
    _same(data.cifar10(10), loaded)
    assert published.requested == ["/cifar.tar.gz"]


def test_a_file_damaged_in_the_cache_is_unpacked_again(published, tmp_path):
    loaded = data.cifar10(10)
    _damage(tmp_path / "cache" / CIFAR / "data_batch_1.bin", lambda raw: raw[:-1])
    _same(data.cifar10(10), loaded)
    assert published.requested == ["/cifar.tar.gz"]


def test_an_archive_damaged_in_the_cache_is_downloaded_again(published, tmp_path):
    loaded = data.cifar10(10)
    _damage(tmp_path / "cache/cifar.tar.gz", lambda raw: raw[:-1])
    (tmp_path / "cache" / CIFAR / "data_batch_1.bin").unlink()
    _same(data.cifar10(10), loaded)
    assert published.requested == ["/cifar.tar.gz"] * 2


def test_both_orders_of_the_columns_are_read_alike(published, folder, monkeypatch):
    """The archive's checksum vouches for a table whose own is another than that of the known copy."""
    plain = data.sst2(10, folder=folder)
    lines = [b"\t".join(reversed(line.split(b"\t"))) for line in (folder / "SST-2/train.tsv").read_bytes().split(b"\n")]
    assert b"\n".join(lines).startswith(b"sentence\tlabel\nword0 and more \t0\n")
    with zipfile.ZipFile(published.site / "other.zip", "w") as packed:
        packed.writestr("SST-2/train.tsv", b"\n".join(lines))
    _publish(published, monkeypatch, "cifar.tar.gz", "other.zip")
    for _ in range(2):
        _same(data.sst2(10), plain)
    assert published.requested == ["/other.zip"]


@pytest.mark.parametrize("file", ["cifar.tar.gz", "missing.tar.gz", "broken.tar.gz"])
def test_a_failed_download_is_explained_and_leaves_nothing_behind(published, tmp_path, monkeypatch, file):
    """The first is whole, but not what its checksum says."""
    monkeypatch.setitem(sources.ARCHIVES, CIFAR, (f"{published.address}/{file}", "sha256:" + "0" * 64))
    with pytest.raises(data.DataError, match=rf"could not get {CIFAR}/data_batch_1\.bin from http.*set EOSLIB_DATA"):
        data.cifar10(10)
    assert published.requested  # it was the server's answer that failed
    assert not _left(tmp_path)


def test_no_network_is_explained(tmp_path):
    message = r"could not get SST-2/train\.tsv .*Without a network, put SST-2/train\.tsv"
    with pytest.raises(data.DataError, match=message):
        data.sst2(2000)
    assert not _left(tmp_path)


def test_an_interrupted_download_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(self, url, output_file, pooch, check_only=False):
        Path(output_file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.sst2(2000)
    assert not _left(tmp_path)


def test_an_interrupted_unpacking_leaves_no_half_file(published, tmp_path, monkeypatch):
    def interrupted(self, members, path, **options):
        half = Path(path, members[0].name)
        half.parent.mkdir()
        half.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", interrupted)
        with pytest.raises(KeyboardInterrupt):
            data.cifar10(10)
    assert _left(tmp_path) == ["cache/cifar.tar.gz"]  # whole and verified: the next call needs no network
    assert len(data.cifar10(10).targets) == 10
    assert len(published.requested) == 1


def test_an_archive_without_the_member_is_an_error(published, monkeypatch):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz"):
        pass
    (published.site / "empty.tar.gz").write_bytes(buffer.getvalue())
    _publish(published, monkeypatch, "empty.tar.gz", "sst.zip")
    with pytest.raises(data.DataError, match=r"could not get .*data_batch_1\.bin.*No such file"):
        data.cifar10(10)
