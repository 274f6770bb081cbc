"""Run files: schema, digests, reasons to compute again."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess

import jax
import numpy as np
import pytest
import xarray as xr

from eoslib.trajectories import variables
from selfstab import experiment, settings
from selfstab.runs import compute, files, provenance
from selfstab.source import numerical_digest


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EOSLIB_RESULTS", str(tmp_path))
    (tmp_path / "paper").mkdir()  # of recorded runs, none
    return tmp_path


def small(setting, seed):
    data = xr.Dataset({name: (variables.get(name).dims, np.arange(3.0)) for name in files.REQUIRED_VARIABLES})
    known = {"setting_digest": setting.digest(), "library_digest": numerical_digest(), "scale": setting.scale}
    return data.assign_attrs(dict.fromkeys(files.REQUIRED_ATTRIBUTES, "?") | known)


def test_a_run_file_serves_until_setting_or_code_changes(home, monkeypatch):
    setting = settings.get("mlp-cats-dogs", "test")
    assert files.stale(setting, 0) == "there is no file yet"
    files.write(small(setting, 0), files.path(setting, 0))
    assert files.stale(setting, 0) is None
    assert files.stale(setting, 1) == "there is no file yet"
    other = settings.get("mlp-cats-dogs", "test", tracked_steps=51)
    assert files.stale(other, 0) == "its setting changed"
    monkeypatch.setattr(files, "numerical_digest", lambda: "other")
    assert files.stale(setting, 0) == "the numerical code changed"
    assert [file.name for file in (home / "test").iterdir()] == [files.path(setting, 0).name]  # nothing half-written


@pytest.mark.parametrize(
    ("second", "code", "strided", "kept"),
    [(9.0, "former", 0, False), (11.0, "former", 0, True), (9.0, "today's", 0, True), (9.0, "former", 25, True)],
)
def test_eigenvalues_that_older_code_may_not_have_found_are_left_out(home, second, code, strided, kept):
    setting, dims = settings.get("transformer-sst2", "test", strided=strided), variables.get("eigenvalues").dims
    run = small(setting, 0).assign(eigenvalues=(dims, [[100.0, 90.0], [100.0, second]]))
    whence = {"setting": json.dumps(dataclasses.asdict(setting)), "single_direction_until": 25}
    whence |= {"library_digest": files.FORMER if code == "former" else code}
    files.write(run.assign_attrs(whence), files.path(setting, 0))
    run = files.load(files.path(setting, 0))
    assert ("eigenvalues" in run) == kept
    assert run.attrs["single_direction_until"] == 25  # it can only have been earlier


def test_the_code_before_todays_counts_as_todays_until_the_next_change(home, monkeypatch):
    setting = settings.get("mlp-cats-dogs", "test")
    former = small(setting, 0).assign_attrs(library_digest=files.FORMER)
    for today, counts in ((files.SUCCESSOR, True), ("the next", False)):
        monkeypatch.setattr(files, "numerical_digest", lambda today=today: today)
        assert files.of_today(former) == counts
        assert files.of_today(former.assign_attrs(library_digest=today))
        assert not files.of_today(former.assign_attrs(library_digest="old"))


@pytest.mark.usefixtures("ordinary")
def test_a_published_run_begins_halfway_along_a_step_and_predicts_at_once(home):
    """In JAX's own mode, which stays as it was: 64 bits are for the run alone."""
    setting = settings.get("mlp-cats-dogs-published", "test", tracked_steps=4, strided=0)
    data = compute.compute(setting, progress=False)
    assert jax.numpy.zeros(1).dtype == np.float32
    assert data.attrs["status"].startswith("reached")
    before, last = data.check_sharpness.values[-2:]
    assert before < data.attrs["edge"] <= last
    assert data.gd_sharpness[0] < data.attrs["edge"]  # half a step earlier
    assert data.predicting.values.tolist() == [0, 1, 1, 1]
    with jax.enable_x64(True):  # the loss in double precision at the same point, by plain JAX
        prepared = experiment.prepare(setting, 0)
        found = experiment.approach(setting, 0, prepared, progress=False)
        params = jax.tree.map(lambda a: a.astype(np.float64), prepared.objective.unravel(found.theta.high))
        images, targets = (np.asarray(part, np.float64) for part in prepared.train.batch)
        hidden = images.reshape(len(images), -1)
        for layer in ("Dense_0", "Dense_1"):
            hidden = jax.nn.swish(hidden @ params[layer]["kernel"] + params[layer]["bias"])
        outputs = hidden @ params["head"]["kernel"] + params["head"]["bias"]
        loss = float(np.mean((np.asarray(outputs)[:, 0] - targets) ** 2))
    assert float(data.gd_loss[0]) == pytest.approx(loss, rel=1e-6)


def test_recorded_runs_are_found_by_name_largest_rate_first(home):
    assert files.recordings() == []
    for name, rate in (("mlp-cifar10", 0.01), ("mlp-cifar10", 0.04), ("mlp-cats-dogs", 0.02)):
        setting = settings.get(name, "paper", learning_rate=rate)
        known = {"key": setting.key(0), "learning_rate": rate, "seed": 0}
        files.write(small(setting, 0).assign_attrs(known), files.path(setting, 0))
    found = [run.attrs["key"] for run in files.recordings()]
    assert found == [
        f"{name}--seed0" for name in ("mlp-cats-dogs--eta0.02", "mlp-cifar10--eta0.04", "mlp-cifar10--eta0.01")
    ]
    assert [run.attrs["learning_rate"] for run in files.recordings("mlp-cifar10")] == [0.04, 0.01]
    assert files.recordings("mlp-cifar10", seed=1) == []
    setting = settings.get("mlp-cats-dogs", "paper", learning_rate=0.02)
    known = {"key": setting.key(3), "learning_rate": 0.02, "seed": 3}
    files.write(small(setting, 3).assign_attrs(known), files.path(setting, 3))
    assert [run.attrs["key"] for run in files.recordings(seed=3)] == ["mlp-cats-dogs--eta0.02--seed3"]
    assert len(files.recordings(seed=None)) == 4
    assert [run.attrs["key"] for run in files.recordings("mlp-cifar10", learning_rate=0.04)] == [found[1]]
    assert [run.attrs["seed"] for run in files.recordings("mlp-cats-dogs", seed=None, learning_rate=0.02)] == [0, 3]


def test_a_broken_file_is_named(home):
    setting = settings.get("mlp-cats-dogs", "test")
    file = files.path(setting, 0)
    with pytest.raises(FileNotFoundError, match="make figures"):
        files.load(file)
    file.parent.mkdir()
    file.write_bytes(b"nothing")
    with pytest.raises(files.SchemaError, match=rf"{file.name}.* not a readable netCDF file"):
        files.load(file)
    lacking = small(setting, 0)
    del lacking.attrs["device"]
    files.write(lacking, file)
    with pytest.raises(files.SchemaError, match=rf"{file.name} lacks the attribute device"):
        files.load(file)
    files.write(small(setting, 0).drop_vars("check_alpha"), file)
    with pytest.raises(files.SchemaError, match=rf"{file.name} lacks the variable check_alpha"):
        files.load(file)
    files.write(small(setting, 0).rename(check="approach_step", approach_step="check"), file)
    with pytest.raises(files.SchemaError, match=rf"{file.name}: .* has dimensions"):
        files.load(file)


def test_a_run_file_is_believed_only_as_it_was_written(home):
    """Whatever byte is flipped, also in the checksum, and wherever the file is cut."""
    setting = settings.get("mlp-cats-dogs", "test")
    file = files.path(setting, 0)
    files.write(small(setting, 0), file)
    whole = file.read_bytes()
    flips = [*np.random.default_rng(0).choice(len(whole), 100, replace=False), *range(len(whole) - 105, len(whole), 3)]
    damaged = [whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :] for place in flips]
    for content in [*damaged, whole[:-1], whole[: len(whole) // 2], whole + b"\0", b""]:
        file.write_bytes(content)
        with pytest.raises(files.SchemaError, match=re.escape(str(file))) as found:
            files.load(file)
        assert files.stale(setting, 0) == str(found.value)


def test_a_run_recorded_before_there_were_checksums_is_accepted_and_no_other(home):
    for scale in ("paper", "test"):
        setting = settings.get("mlp-cats-dogs", scale)
        file = files.path(setting, 0)
        files.write(small(setting, 0), file)
        file.write_bytes(file.read_bytes().partition(files.MARK)[0])
    assert files.load(files.path(settings.get("mlp-cats-dogs", "paper"), 0)).attrs["scale"] == "paper"
    with pytest.raises(files.SchemaError, match="lacks its checksum"):
        files.load(file)


def test_a_run_file_has_the_mode_that_the_umask_gives(home):
    setting, before = settings.get("mlp-cats-dogs", "test"), os.umask(0o077)
    try:
        files.write(small(setting, 0), files.path(setting, 0))
    finally:
        os.umask(before)
    assert files.path(setting, 0).stat().st_mode & 0o777 == 0o600


def test_a_loaded_run_describes_its_variables(home):
    """Also one that was written before the table of variables was, without descriptions."""
    setting = settings.get("mlp-cats-dogs", "test")
    files.write(small(setting, 0), files.path(setting, 0))
    loss = files.load(files.path(setting, 0)).approach_loss
    assert loss.attrs["units"] == "loss"
    assert loss.attrs["long_name"] == variables.get("approach_loss").long_name


def test_a_write_that_fails_leaves_the_old_file(home, monkeypatch):
    setting = settings.get("mlp-cats-dogs", "test")
    file = files.path(setting, 0)
    files.write(small(setting, 0), file)
    before = file.read_bytes()

    def half(self, path, **_):
        pathlib.Path(path).write_bytes(before[: len(before) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", half)
    with pytest.raises(OSError, match="no space left"):
        files.write(small(setting, 0), file)
    assert file.read_bytes() == before
    assert [f.name for f in file.parent.iterdir()] == [file.name]


def test_a_commit_is_named_only_for_the_code_of_its_own_repository(tmp_path, monkeypatch):
    """Not for code unpacked inside another one."""
    inner = tmp_path / "inner"
    inner.mkdir()
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "other"]):
        subprocess.run([*git, *words], check=True)
    for place, known in ((tmp_path, True), (inner, False)):
        monkeypatch.setattr(provenance, "ROOT", place)
        assert (provenance._commit() != "unknown") == known
