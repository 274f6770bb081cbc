"""Data sets: what their arrays hold, from the subset and from the canonical files."""

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import make_subset
import numpy as np
import pytest

from selfstab import data, settings
from selfstab.data import images, samples, sentences, sources

CANONICAL = os.environ.get("EOSLIB_DATA")
needs_canonical = pytest.mark.skipif(not CANONICAL, reason="EOSLIB_DATA names no folder with the canonical files")
SMALL = [settings.get(name, scale) for name in settings.names() for scale in ("test", "quick")]
SST2 = settings.Setting("sst2", "quick", "sst2", 1000, "transformer", 8, "squared-error", 0.1, 1, 0)


@pytest.fixture(autouse=True)
def _the_subset_alone(monkeypatch, tmp_path):
    """No folder, an empty cache, no network."""
    monkeypatch.delenv("EOSLIB_DATA", raising=False)
    monkeypatch.setenv("EOSLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "ARCHIVES", dict.fromkeys(sources.ARCHIVES, ("http://127.0.0.1:9/none.zip", "md5:0")))


def _same(a: data.Dataset, b: data.Dataset) -> None:
    np.testing.assert_equal(dataclasses.asdict(a), dataclasses.asdict(b))


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
        assert sources.subset(name) == raw
    for split in ("train", "test"):
        indices, records = images.subset(split)
        files = [np.fromfile(Path(CANONICAL) / f, np.uint8) for f in images.FILES[split][:1]]
        np.testing.assert_array_equal(records, np.concatenate(files).reshape(-1, 3073)[indices])


@needs_canonical
def test_selection_equals_a_plain_reading_of_the_files():
    files = [np.fromfile(Path(CANONICAL) / f, np.uint8).reshape(-1, 3073) for f in images.FILES["train"][:3]]
    records = np.concatenate(files)
    loaded = data.cifar10_cats_dogs(5000, folder=CANONICAL)
    cats, dogs = (np.flatnonzero(records[:, 0] == label)[:2500] for label in (3, 5))
    np.testing.assert_array_equal(loaded.indices, np.sort(np.concatenate([cats, dogs])))
    assert loaded.digest == hashlib.sha256(records[loaded.indices].tobytes()).hexdigest()[:16]
    ten = data.cifar10(12_000, folder=CANONICAL)
    np.testing.assert_array_equal(ten.targets, records[:12_000, 0])
    with pytest.raises(data.DataError, match=r"data_batch_4\.bin is missing\. Put it there from .* unset EOSLIB_DATA"):
        data.cifar10(30_001, folder=CANONICAL)


@needs_canonical
def test_largest_numbers_are_those_of_the_files():
    for split, table in sentences.FILES.items():
        text = (Path(CANONICAL) / table).read_text().rstrip("\n").split("\n")[1:]
        labels = np.array([int(line.split("\t")[0]) for line in text])
        assert data.LARGEST["sst2"][split] == 2 * min((labels == 0).sum(), (labels == 1).sum())
        assert data.sst2(data.LARGEST["sst2"][split], split, folder=CANONICAL, fit=100).targets.sum() == 0


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(seed=st.integers(0, 2**31), m=st.integers(1, 5))
def test_packing_images_loses_nothing(seed, m):
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, (m, 3073)).astype(np.uint8)
    indices = np.sort(rng.choice(50_000, m, replace=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "subset", lambda name: make_subset.pack_images(indices, records))
        back = images.subset("train")
    np.testing.assert_array_equal(back[0], indices)
    np.testing.assert_array_equal(back[1], records)


def test_images_are_standardized_per_channel_on_the_training_subset():
    train, test = data.cifar10(300), data.cifar10(100, "test", fit=300)
    assert train.inputs.dtype == np.float32
    assert train.inputs.shape == (300, 32, 32, 3)
    eps = np.finfo(np.float32).eps  # of each value, of size 1; the means of many are far better
    np.testing.assert_allclose(train.inputs.mean(axis=(0, 1, 2), dtype=np.float64), 0, atol=eps)
    np.testing.assert_allclose(train.inputs.std(axis=(0, 1, 2), dtype=np.float64), 1, atol=eps)
    raw = {split: images.subset(split)[1][:n, 1:] for split, n in (("train", 300), ("test", 100))}
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
    np.testing.assert_array_equal(images.standardize(flat, flat), 0)


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
    assert loaded.inputs.shape[1] == lengths.max() <= sentences.MAX_TOKENS
    assert np.all(loaded.inputs[~loaded.mask] == 0)
    assert loaded.inputs[loaded.mask].min() >= 2  # no padding, and no unknown word in the set itself
    assert loaded.inputs.max() < sentences.VOCABULARY
    assert loaded.targets.sum() == 0
    counts = np.bincount(loaded.inputs[loaded.mask])[2:]
    assert np.all(np.diff(counts) <= 0)  # the most frequent words first
    test = data.sst2(100, "test", fit=1000)
    assert np.any(test.inputs[test.mask] == 1)  # words that training did not have


def test_long_sentences_are_cut_case_is_ignored_and_rare_words_are_dropped():
    texts = ["B a a A " + "c " * 100, "b d"]
    inputs, mask = sentences.encode(texts, texts)
    assert inputs.shape == mask.shape == (2, sentences.MAX_TOKENS)
    assert inputs[0, :5].tolist() == [4, 3, 3, 3, 2]  # c 100 times, a 3, b 2, d 1
    assert inputs[1, :3].tolist() == [4, 5, 0]
    assert mask.sum(axis=1).tolist() == [sentences.MAX_TOKENS, 2]
    assert sentences.encode(texts, texts, vocabulary=5)[0][1, :3].tolist() == [4, 1, 0]


def test_word_pieces_are_the_longest_of_berts_vocabulary():
    """Against a plain loop over the characters; the file is the published one, by its checksum."""
    raw = sources.subset("bert-base-uncased.xz")
    assert hashlib.sha256(raw).hexdigest() == "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
    index = {piece: number for number, piece in enumerate(raw.decode().splitlines())}

    def plain(sentence):
        found = [index["[CLS]"]]
        for word in re.findall(r"\w+|[^\w\s]", sentence.lower().replace("_", " _ ")):
            start, pieces = 0, []
            while start < len(word):
                mark = "##" * (start > 0)
                end = next((e for e in range(len(word), start, -1) if mark + word[start:e] in index), None)
                if end is None:
                    pieces = [index["[UNK]"]]
                    break
                pieces.append(index[mark + word[start:end]])
                start = end
            found += pieces
        return [*found[: sentences.MAX_TOKENS - 1], index["[SEP]"]]

    texts = [text for text in samples.first("sst2", 200, "train", sentences.parts)[2] if text.isascii()]
    assert len(texts) > 150
    inputs, mask = sentences.encode_pieces([*texts, "x y" * 100])
    for row, real, text in zip(inputs, mask, texts, strict=False):
        assert row[real].tolist() == plain(text)
        assert not row[~real].any()
    assert inputs.shape[1] == sentences.MAX_TOKENS
    assert inputs[-1, -1] == index["[SEP]"]  # which a cut leaves


def test_the_released_transformer_reads_word_pieces():
    released, words = (data.load(settings.get(f"transformer-sst2{tail}", "test")) for tail in ("-published", ""))
    assert np.all(released.inputs[:, 0] == 101)
    np.testing.assert_array_equal(released.targets, words.targets)
    np.testing.assert_array_equal(released.indices, words.indices)


def test_the_vocabulary_does_not_depend_on_the_process():
    code = (
        "import hashlib; from selfstab import data; print(hashlib.sha256(data.sst2(200).inputs.tobytes()).hexdigest())"
    )
    found = set()
    for seed in ("0", "1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.add(run.stdout)
    assert found == {hashlib.sha256(data.sst2(200).inputs.tobytes()).hexdigest() + "\n"}


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


def test_too_few_samples_in_every_source_are_an_error():
    def parts(dataset, split, source):
        yield np.arange(2), np.array([3, 3]), np.zeros((2, 1))

    assert samples.first("cifar10", 2, "train", parts)[0].tolist() == [0, 1]
    with pytest.raises(data.DataError, match=r"too few samples: of {3: 1, 5: 1} \(number by label\), {3: 0, 5: 1} are"):
        samples.first("cats-dogs", 2, "train", parts)


def test_another_seed_draws_its_samples_with_replacement():
    """A bootstrap sample: the same rows, some twice, each with its own label; seed 0 takes them as they come."""
    whole = data.cifar10_cats_dogs(40)
    assert whole.resampled(0) is whole
    drawn, again, other = whole.resampled(1), whole.resampled(1), whole.resampled(2)
    assert drawn.inputs.shape == whole.inputs.shape
    assert len({whole.digest, drawn.digest, other.digest}) == 3
    assert drawn.digest == again.digest
    assert set(drawn.indices) < set(whole.indices)
    assert not np.array_equal(drawn.indices, other.indices)
    for row, index in enumerate(drawn.indices):
        place = int(np.flatnonzero(whole.indices == index)[0])
        np.testing.assert_array_equal(drawn.inputs[row], whole.inputs[place])
        assert drawn.targets[row] == whole.targets[place]
