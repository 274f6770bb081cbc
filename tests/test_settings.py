"""The table of named experiments: every row valid, every mistake named, and no JAX to read it."""

import dataclasses
import subprocess
import sys

import pytest

from selfstab import settings

GOOD = dict(
    name="row", scale="test", dataset="cats-dogs", n=100, model="mlp", width=8, criterion="squared-error",
    learning_rate=0.02, edge_steps=10, tracked_steps=5,
)  # fmt: skip


@pytest.mark.parametrize("scale", settings.SCALES)
@pytest.mark.parametrize("name", settings.names())
def test_every_row_has_every_scale(name, scale):
    setting = settings.get(name, scale)
    assert (setting.name, setting.scale) == (name, scale)


@pytest.mark.parametrize("name", settings.names())
def test_scales_grow(name):
    sizes = [settings.get(name, scale).n for scale in settings.SCALES]
    assert sizes == sorted(sizes)


def test_words_name_what_is_known():
    known = {*settings.DATASETS, *settings.MODELS, *settings.ACTIVATIONS, *settings.CRITERIA}
    assert known >= settings.WORDS.keys() >= {*settings.DATASETS, *settings.MODELS}


@pytest.mark.parametrize("scale", settings.SCALES)
@pytest.mark.parametrize("activation", settings.ACTIVATIONS[1:])
def test_activations_differ_in_nothing_else(activation, scale):
    changed, base = settings.get(f"mlp-cats-dogs-{activation}", scale), settings.get("mlp-cats-dogs", scale)
    as_base = dict(name=base.name, activation=base.activation, tracked_steps=base.tracked_steps)
    assert changed.activation == activation
    assert dataclasses.replace(changed, **as_base) == base


@pytest.mark.parametrize("name", [name for name in settings.names() if name.endswith("-published")])
def test_as_published_means_so_at_every_scale(name):
    for scale in settings.SCALES:
        setting = settings.get(name, scale)
        assert (setting.kick, setting.start, setting.midpoint, setting.gradient_dtype) == (0, 0, True, "float64")
        assert (setting.activation, setting.generalized, setting.directions) == ("swish", True, 1)
        assert setting.model not in ("resnet18", "transformer")  # the smooth variants


def test_a_setting_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.get("mlp-cifar10").n = 3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scale", "huge", "unknown scale 'huge'; known: test, quick, paper"),
        ("dataset", "mnist", "unknown dataset 'mnist'; known: cifar10, cats-dogs, sst2"),
        ("model", "vit", "unknown model 'vit'; known: mlp, "),
        ("activation", "sine", "unknown activation 'sine'; known: swish, "),
        ("criterion", "hinge", "unknown criterion 'hinge'; known: squared-error, "),
        ("learning_rate", 0.0, r"learning_rate must be positive, got 0\.0"),
        ("learning_rate", float("nan"), "learning_rate must be positive, got nan"),
        ("n", 0, "n must be a positive integer, got 0"),
        ("n", 101, "n must be even for the balanced data set 'cats-dogs', got 101"),
        ("width", -1, "width must be a positive integer, got -1"),
        ("edge_steps", 0, "edge_steps must be a positive integer, got 0"),
        ("tracked_steps", -1, "tracked_steps must be a non-negative integer, got -1"),
        ("strided", -25, "strided must be a non-negative integer, got -25"),
        ("transport", -1, "transport must be a non-negative integer, got -1"),
        ("kick", 1.5, r"kick must lie in \[0, 1\] .* got 1\.5"),
        ("start", -0.1, r"start must lie in \[0, 1\] .* got -0\.1"),
        ("image_size", 24, "image_size must be 16 or 32, got 24"),
        ("micro_batch", 0, r"micro_batch must lie in 1\.\.n=100 or be None, got 0"),
        ("micro_batch", 101, r"micro_batch must lie in 1\.\.n=100 or be None, got 101"),
        ("model", "transformer", "model 'transformer' does not read data set 'cats-dogs'"),
        ("model", "transformer-released", "model 'transformer-released' does not read data set 'cats-dogs'"),
        ("gradient_dtype", "float16", "unknown gradient_dtype 'float16'; known: float32, float64"),
    ],
)
def test_a_bad_field_is_named(field, value, message):
    settings.Setting(**GOOD)
    with pytest.raises(ValueError, match=message):
        settings.Setting(**GOOD | {field: value})


def test_combinations_that_make_no_sense():
    with pytest.raises(ValueError, match="logistic criterion needs labels ±1, got the ten classes of 'cifar10'"):
        settings.Setting(**GOOD | dict(dataset="cifar10", criterion="logistic"))
    with pytest.raises(ValueError, match="model 'mlp' does not read data set 'sst2'"):
        settings.Setting(**GOOD | dict(dataset="sst2"))


def test_what_is_unknown_is_told_what_is_known():
    with pytest.raises(ValueError, match="unknown setting 'mlp'; known: mlp-cats-dogs, mlp-cifar10"):
        settings.get("mlp")
    with pytest.raises(ValueError, match="unknown scale 'big'; known: test, quick, paper"):
        settings.get("mlp-cifar10", "big")
    with pytest.raises(ValueError, match=r"unknown field of Setting 'eta'; known: .*learning_rate"):
        settings.get("mlp-cifar10", eta=0.1)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(settings.Setting)])
def test_every_field_enters_the_digest(field):
    one = settings.Setting(**GOOD)
    other = {
        "name": "other", "scale": "quick", "dataset": "cifar10", "model": "cnn", "activation": "tanh",
        "criterion": "logistic", "learning_rate": 0.03, "image_size": 16, "micro_batch": 10, "generalized": True,
        "kick": 0.5, "start": 0.5, "gradient_dtype": "float64",
    }.get(field, getattr(one, field) + 2 if isinstance(getattr(one, field), int) else None)  # fmt: skip
    changed = dataclasses.replace(one, **{field: other})
    assert changed.digest() != one.digest()
    assert settings.Setting(**GOOD).digest() == one.digest()


def test_a_key_names_the_run():
    setting = settings.get("mlp-cifar10", learning_rate=0.025)
    assert setting.key(3) == "mlp-cifar10--eta0.025--seed3"


def test_what_the_graph_and_the_book_read_imports_no_jax():
    modules = "selfstab.settings, selfstab.chapters, selfstab.records.store, selfstab.source"
    code = f"import {modules}, sys; assert not {{'jax', 'eoslib'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
