"""Data: sources, verification, selection, standardisation, vocabulary, downloads from a local server."""

import doctest
import functools
import hashlib
import http.server
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import make_subset
import numpy as np
import pooch
import pytest

from selfstab import data, settings

CANONICAL = os.environ.get("EOSLIB_DATA")
needs_canonical = pytest.mark.skipif(not CANONICAL, reason="EOSLIB_DATA names no folder with the canonical files")
SMALL = [settings.get(name, scale) for name in settings.names() for scale in ("test", "quick")]
SST2 = settings.Setting("sst2", "quick", "sst2", 1000, "transformer", 8, "squared-error", 0.1, 1, 0)


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """No folder, an empty cache, no network, nothing verified yet."""
    monkeypatch.delenv("EOSLIB_DATA", raising=False)
    monkeypatch.setenv("EOSLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "_VERIFIED", set())
    dead = {folder: (f"http://127.0.0.1:9/{folder}.zip", "md5:0") for folder in data.ARCHIVES}
    monkeypatch.setattr(data, "ARCHIVES", dead)


def _same(a: data.Dataset, b: data.Dataset) -> None:
    for field in ("inputs", "targets", "mask", "indices"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    assert a.digest == b.digest


# --- the subset -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("setting", [*SMALL, SST2], ids=lambda s: f"{s.name}-{s.scale}")
def test_every_small_setting_loads_from_the_subset(setting, split):
    loaded = data.load(setting, split)
    n = setting.n if split == "train" else data.TEST_SAMPLES[setting.dataset]
    assert loaded.inputs.shape[0] == loaded.targets.shape[0] == loaded.indices.shape[0] == n
    assert len(loaded.batch) == (3 if setting.dataset == "sst2" else 2)
    assert np.all(np.isfinite(loaded.inputs))
    if CANONICAL:
        _same(loaded, data.load(setting, split, folder=CANONICAL))


@needs_canonical
def test_the_subset_holds_the_canonical_bytes():
    for name, raw in make_subset.contents(Path(CANONICAL)).items():
        assert data._subset(name) == raw
    for split in ("train", "test"):
        indices, records = data.subset_images(split)
        files = [np.fromfile(Path(CANONICAL) / f, np.uint8) for f in data.IMAGE_FILES[split][:1]]
        np.testing.assert_array_equal(records, np.concatenate(files).reshape(-1, 3073)[indices])


@needs_canonical
def test_selection_equals_a_plain_reading_of_the_files():
    files = [np.fromfile(Path(CANONICAL) / f, np.uint8).reshape(-1, 3073) for f in data.IMAGE_FILES["train"][:3]]
    records = np.concatenate(files)
    loaded = data.cifar10_cats_dogs(5000, folder=CANONICAL)
    cats, dogs = (np.flatnonzero(records[:, 0] == label)[:2500] for label in (3, 5))
    np.testing.assert_array_equal(loaded.indices, np.sort(np.concatenate([cats, dogs])))
    assert loaded.digest == hashlib.sha256(records[loaded.indices].tobytes()).hexdigest()[:16]
    ten = data.cifar10(12_000, folder=CANONICAL)
    np.testing.assert_array_equal(ten.targets, records[:12_000, 0])
    with pytest.raises(
        data.DataError, match=r"data_batch_4\.bin is missing\. Put it there from .* or unset EOSLIB_DATA"
    ):
        data.cifar10(30_001, folder=CANONICAL)


@needs_canonical
def test_largest_numbers_are_those_of_the_files():
    for split, table in data.SENTENCE_FILES.items():
        text = (Path(CANONICAL) / table).read_text().rstrip("\n").split("\n")[1:]
        labels = np.array([int(line.split("\t")[0]) for line in text])
        assert data.LARGEST["sst2"][split] == 2 * min((labels == 0).sum(), (labels == 1).sum())
        assert data.sst2(data.LARGEST["sst2"][split], split, folder=CANONICAL, fit=100).targets.sum() == 0


def test_the_subset_is_small():
    folder = Path(data.__file__).parent / "_subset"
    assert {path.name for path in folder.iterdir()} >= set(data.SUBSET_SHA256)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5_000_000


def test_a_changed_byte_of_the_subset_is_found(monkeypatch):
    monkeypatch.setitem(data.SUBSET_SHA256, "sst2-test.xz", "0" * 64)
    data._subset.cache_clear()
    with pytest.raises(data.DataError, match=r"sst2-test\.xz holds wrong or truncated bytes: SHA-256 .*Restore it"):
        data.sst2(10, "test")


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(seed=st.integers(0, 2**31), m=st.integers(1, 5))
def test_packing_images_loses_nothing(seed, m):
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, (m, 3073)).astype(np.uint8)
    indices = np.sort(rng.choice(50_000, m, replace=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "_subset", lambda name: make_subset.pack_images(indices, records))
        back = data.subset_images("train")
    np.testing.assert_array_equal(back[0], indices)
    np.testing.assert_array_equal(back[1], records)


def test_no_pickle_is_read(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    data._subset.cache_clear()
    assert len(data.cifar10(10).targets) == len(data.sst2(10).targets) == 10


# --- what the arrays hold ---------------------------------------------------------------------------------------------


def test_images_are_standardised_per_channel_on_the_training_subset():
    train, test = data.cifar10(300), data.cifar10(100, "test", fit=300)
    assert train.inputs.dtype == np.float32
    assert train.inputs.shape == (300, 32, 32, 3)
    eps = np.finfo(np.float32).eps  # of each value, of size 1; the means of many are far better
    np.testing.assert_allclose(train.inputs.mean(axis=(0, 1, 2), dtype=np.float64), 0, atol=eps)
    np.testing.assert_allclose(train.inputs.std(axis=(0, 1, 2), dtype=np.float64), 1, atol=eps)
    raw = {split: data.subset_images(split)[1][:n, 1:] for split, n in (("train", 300), ("test", 100))}
    pixels = {s: r.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).astype(np.float64) for s, r in raw.items()}
    mean, std = pixels["train"].mean(axis=(0, 1, 2)), pixels["train"].std(axis=(0, 1, 2))
    for found, split in ((train, "train"), (test, "test")):
        np.testing.assert_allclose(found.inputs, (pixels[split] - mean) / std, atol=4 * eps)


def test_half_size_is_the_mean_over_squares():
    small = data.cifar10_cats_dogs(40, image_size=16)
    full = data.cifar10_cats_dogs(40)
    pooled = full.inputs.astype(np.float64).reshape(40, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    expected = (pooled - pooled.mean(axis=(0, 1, 2))) / pooled.std(axis=(0, 1, 2))
    np.testing.assert_allclose(small.inputs, expected, atol=16 * np.finfo(np.float32).eps)
    np.testing.assert_array_equal(small.indices, full.indices)
    assert small.digest == full.digest


def test_a_channel_without_contrast_stays_finite():
    flat = np.full((2, 4, 4, 3), 7)
    np.testing.assert_array_equal(data._standardised(flat, flat), 0)


def test_cats_and_dogs_balance_and_are_the_first():
    loaded = data.cifar10_cats_dogs(200)
    assert loaded.targets.dtype == np.float32
    assert sorted(set(loaded.targets.tolist())) == [-1, 1]
    assert loaded.targets.sum() == 0
    assert np.all(np.diff(loaded.indices) > 0)
    ten = data.cifar10(1000)
    for label, sign in ((3, -1), (5, 1)):
        first = loaded.indices[loaded.targets == sign]
        np.testing.assert_array_equal(first[first < 1000], np.flatnonzero(ten.targets == label)[:100])


def test_two_classes_under_cross_entropy_are_0_and_1():
    setting = settings.get("mlp-cats-dogs", "test", criterion="cross-entropy")
    loaded, signs = data.load(setting), data.load(settings.get("mlp-cats-dogs", "test"))
    assert loaded.targets.dtype == np.int32
    np.testing.assert_array_equal(loaded.targets, (signs.targets + 1) / 2)


def test_test_data_use_the_statistics_of_the_setting():
    setting = settings.get("mlp-cifar10", "test")
    loaded = data.load(setting, "test", n=50)
    _same(loaded, data.cifar10(50, "test", image_size=setting.image_size, fit=setting.n))
    assert np.any(loaded.inputs != data.cifar10(50, "test", image_size=setting.image_size, fit=100).inputs)


def test_sentences_are_padded_word_indices_of_their_own_vocabulary():
    loaded = data.sst2(1000)
    lengths = loaded.mask.sum(axis=1)
    assert (loaded.inputs.dtype, loaded.mask.dtype) == (np.int32, np.bool_)
    assert loaded.inputs.shape[1] == lengths.max() <= data.MAX_TOKENS
    assert np.all(loaded.inputs[~loaded.mask] == 0)
    assert loaded.inputs[loaded.mask].min() >= 2  # no padding, and no unknown word in the set itself
    assert loaded.inputs.max() < data.VOCABULARY
    assert loaded.targets.sum() == 0
    counts = np.bincount(loaded.inputs[loaded.mask])[2:]
    assert np.all(np.diff(counts) <= 0)  # the most frequent words first
    test = data.sst2(100, "test", fit=1000)
    assert np.any(test.inputs[test.mask] == 1)  # words that training did not have


def test_long_sentences_are_cut_case_is_ignored_and_rare_words_are_dropped(monkeypatch):
    sentences = ["B a a A " + "c " * 100, "b d"]
    monkeypatch.setattr(data, "_sentences", lambda *_: (np.arange(2), np.array([0, 1]), sentences))
    loaded = data.sst2(2)
    assert loaded.inputs.shape == (2, data.MAX_TOKENS)
    assert loaded.inputs[0, :5].tolist() == [4, 3, 3, 3, 2]  # c 100 times, a 3, b 2, d 1
    assert loaded.inputs[1, :3].tolist() == [4, 5, 0]
    monkeypatch.setattr(data, "VOCABULARY", 5)
    data._tokenizer.cache_clear()
    assert data.sst2(2).inputs[1, :3].tolist() == [4, 1, 0]
    data._tokenizer.cache_clear()


def test_the_vocabulary_does_not_depend_on_the_process():
    code = "import hashlib; from eoslib import data; print(hashlib.sha256(data.sst2(200).inputs.tobytes()).hexdigest())"
    found = set()
    for seed in ("0", "1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.add(run.stdout)
    assert found == {hashlib.sha256(data.sst2(200).inputs.tobytes()).hexdigest() + "\n"}


# --- wrong arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.cifar10(0), "n must be a positive integer, got 0"),
        (lambda: data.cifar10(-3), "n must be a positive integer, got -3"),
        (lambda: data.cifar10(True), "n must be a positive integer, got True"),
        (lambda: data.cifar10(50_001), "n=50001 exceeds the 50000 samples of 'cifar10', split 'train'"),
        (lambda: data.cifar10_cats_dogs(2_002, "test"), "n=2002 exceeds the 2000 samples of 'cats-dogs', split 'test'"),
        (lambda: data.cifar10_cats_dogs(11), "n must be even for the balanced data set 'cats-dogs', got 11"),
        (lambda: data.sst2(7), "n must be even for the balanced data set 'sst2', got 7"),
        (lambda: data.sst2(60_000), "n=60000 exceeds the 59560 samples"),
        (lambda: data.cifar10(10, "dev"), "split must be 'train' or 'test', got 'dev'"),
        (lambda: data.cifar10(10, image_size=8), "image_size must be 16 or 32, got 8"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- a folder ---------------------------------------------------------------------------------------------------------

CIFAR = "cifar-10-batches-bin"


def _table(n: int) -> bytes:
    return b"label\tsentence\n" + b"".join(b"%d\tword%d and more \n" % (i % 2, i) for i in range(n))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in the canonical layout with five small batches, its checksums taken as the published ones."""
    root = tmp_path / "canonical"
    rng = np.random.default_rng(0)
    contents = {"SST-2/train.tsv": _table(40), "SST-2/dev.tsv": _table(12)}
    for name in [*data.IMAGE_FILES["train"], *data.IMAGE_FILES["test"]]:
        records = rng.integers(0, 256, (20, data.RECORD)).astype(np.uint8)
        records[:, 0] = np.arange(20) % 10  # two cats and two dogs a batch
        contents[name] = records.tobytes()
    for name, raw in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(raw)
    sums = {name: hashlib.sha256(raw).hexdigest() for name, raw in contents.items() if "_batch_4" not in name}
    monkeypatch.setattr(data, "SHA256", sums)
    monkeypatch.setattr(data, "BATCH", 20)
    return root


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


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw[:9] + b"\x00" + raw[10:], lambda raw: b""])
@pytest.mark.parametrize(
    ("name", "load"),
    [
        (f"{CIFAR}/data_batch_1.bin", lambda root: data.cifar10(5, folder=root)),
        (f"{CIFAR}/test_batch.bin", lambda root: data.cifar10(5, "test", folder=root)),
        ("SST-2/dev.tsv", lambda root: data.sst2(4, "test", folder=root)),
    ],
)
def test_wrong_or_truncated_bytes_stop_with_the_name_of_the_file(folder, name, load, damage):
    load(folder)
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    os.utime(path, ns=(0, 1))  # a clock too coarse to see the change must not hide it here
    with pytest.raises(data.DataError, match=rf"{path.name} holds wrong or truncated bytes: .* expected SHA-256"):
        load(folder)


def test_a_file_is_verified_once_until_it_is_touched(folder, monkeypatch):
    hashed = []
    true_hash = data._sha256
    monkeypatch.setattr(data, "_sha256", lambda raw: hashed.append(len(raw)) or true_hash(raw))
    size = 20 * data.RECORD
    for _ in range(2):
        data.cifar10(20, folder=folder)
    assert hashed.count(size) == 3  # one verification, two digests of the twenty records
    os.utime(folder / CIFAR / "data_batch_1.bin", ns=(0, 1))
    data.cifar10(20, folder=folder)
    assert hashed.count(size) == 5


def test_a_batch_without_a_known_checksum_is_refused_until_the_folder_records_it(folder):
    with pytest.raises(data.DataError, match=r"no SHA-256 is known for .*data_batch_4\.bin\. .*SHA256SUMS"):
        data.cifar10(80, folder=folder)
    name = f"{CIFAR}/data_batch_4.bin"
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest} *{name}\n")
    assert data.cifar10(80, folder=folder).indices[-1] == 79
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  {name}\n")
    data._VERIFIED.clear()
    with pytest.raises(data.DataError, match=r"data_batch_4\.bin holds wrong"):
        data.cifar10(80, folder=folder)


def test_the_folder_cannot_overrule_a_published_checksum(folder):
    path = folder / CIFAR / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[::-1])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  {CIFAR}/data_batch_1.bin\n")
    with pytest.raises(data.DataError, match=r"data_batch_1\.bin holds wrong"):
        data.cifar10(5, folder=folder)


def test_both_orders_of_the_columns_are_read_alike(folder):
    plain = data.sst2(10, folder=folder)
    path = folder / "SST-2/train.tsv"
    lines = [b"\t".join(reversed(line.split(b"\t"))) for line in path.read_bytes().split(b"\n")]
    path.write_bytes(b"\n".join(lines))
    os.utime(path, ns=(0, 1))
    assert path.read_bytes().startswith(b"sentence\tlabel\nword0 and more \t0\n")
    _same(data.sst2(10, folder=folder), plain)


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
        for name in data.SENTENCE_FILES.values():
            packed.write(folder / name, name)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=site))
    server.requested, server.address = [], f"http://127.0.0.1:{server.server_address[1]}"
    sha = hashlib.sha256((site / "cifar.tar.gz").read_bytes()).hexdigest()
    md5 = hashlib.md5((site / "sst.zip").read_bytes()).hexdigest()
    archives = {
        CIFAR: (f"{server.address}/cifar.tar.gz", f"sha256:{sha}"),
        "SST-2": (f"{server.address}/sst.zip", f"md5:{md5}"),
    }
    monkeypatch.setattr(data, "ARCHIVES", archives)
    for name in ("subset_images", "_subset"):  # an empty subset: everything has to be downloaded
        empty = (np.zeros(0, int), np.zeros((0, data.RECORD), np.uint8)) if name == "subset_images" else b"0\t0\tx"
        monkeypatch.setattr(data, name, lambda _, empty=empty: empty)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _left(tmp_path):
    return sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "cache").rglob("*"))


def test_a_download_gives_the_same_and_happens_once(published, folder, tmp_path):
    _same(data.cifar10(70), data.cifar10(70, folder=_with_sums(folder)))  # batch 4 too
    _same(data.sst2(20), data.sst2(20, folder=folder))
    assert published.requested == ["/cifar.tar.gz", "/sst.zip"]
    unpacked = [f"cache/{CIFAR}/data_batch_{i}.bin" for i in range(1, 5)]
    expected = ["cache/SHA256SUMS", "cache/SST-2", "cache/SST-2/train.tsv", "cache/cifar-10-batches-bin", *unpacked]
    assert _left(tmp_path) == sorted([*expected, "cache/cifar.tar.gz", "cache/sst.zip"])
    data.cifar10(100)  # batch 5 comes out of the archive that is there
    assert len(published.requested) == 2


def _with_sums(folder):
    name = f"{CIFAR}/data_batch_4.bin"
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n")
    return folder


def test_a_file_damaged_in_the_cache_is_named(published, tmp_path):
    data.cifar10(10)
    path = tmp_path / "cache" / CIFAR / "data_batch_1.bin"
    path.write_bytes(b"x" * path.stat().st_size)
    os.utime(path, ns=(0, 1))
    with pytest.raises(data.DataError, match=r"data_batch_1\.bin holds wrong or truncated bytes.*Delete it"):
        data.cifar10(10)
    path.unlink()
    assert len(data.cifar10(10).targets) == 10


@pytest.mark.parametrize("file", ["cifar.tar.gz", "missing.tar.gz", "broken.tar.gz"])
def test_a_failed_download_is_explained_and_leaves_nothing_behind(published, tmp_path, monkeypatch, file):
    archives = data.ARCHIVES | {CIFAR: (f"{published.address}/{file}", "sha256:" + "0" * 64)}
    monkeypatch.setattr(data, "ARCHIVES", archives)
    with pytest.raises(data.DataError, match=rf"could not get {CIFAR}/data_batch_1\.bin from http.*set EOSLIB_DATA"):
        data.cifar10(10)
    assert published.requested  # it was the server's answer that failed
    assert not (tmp_path / "cache").exists()


def test_no_network_is_explained(tmp_path, monkeypatch):
    with pytest.raises(
        data.DataError, match=r"could not get SST-2/train\.tsv .*Without a network, put SST-2/train\.tsv"
    ):
        data.sst2(2000)
    assert not (tmp_path / "cache").exists()


def test_an_interrupted_download_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(self, url, output_file, pooch, check_only=False):
        Path(output_file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.sst2(2000)
    assert not (tmp_path / "cache").exists()


def test_an_interrupted_unpacking_leaves_no_half_file(published, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            data.cifar10(10)
    assert _left(tmp_path) == ["cache/cifar.tar.gz"]  # whole and verified: the next call needs no network
    assert len(data.cifar10(10).targets) == 10


def test_an_archive_without_the_member_is_an_error(published, tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz"):
        pass
    (tmp_path / "site" / "empty.tar.gz").write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    archives = data.ARCHIVES | {CIFAR: (f"{published.address}/empty.tar.gz", f"sha256:{digest}")}
    monkeypatch.setattr(data, "ARCHIVES", archives)
    with pytest.raises(data.DataError, match=r"could not get .*data_batch_1\.bin"):
        data.cifar10(10)


def test_the_example_in_the_docstring_holds():
    assert doctest.testmod(data) == (0, 2)
