"""Run files: schema, digests, reasons to compute again, checkpoints."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import xarray as xr

from eoslib.trajectories import variables
from selfstab import settings
from selfstab.runs import compute, files, quantities
from selfstab.source import numerical_digest


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EOSLIB_RESULTS", str(tmp_path))
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


def test_recorded_runs_are_found_by_name_largest_rate_first(home):
    assert files.recordings() == []
    for name, rate in (("mlp-cifar10", 0.01), ("mlp-cifar10", 0.04), ("mlp-cats-dogs", 0.02)):
        setting = settings.get(name, "paper", learning_rate=rate)
        known = {"key": setting.key(0), "learning_rate": rate}
        files.write(small(setting, 0).assign_attrs(known), files.path(setting, 0))
    found = [run.attrs["key"] for run in files.recordings()]
    assert found == [
        f"{name}--seed0" for name in ("mlp-cats-dogs--eta0.02", "mlp-cifar10--eta0.04", "mlp-cifar10--eta0.01")
    ]
    assert [run.attrs["learning_rate"] for run in files.recordings("mlp-cifar10")] == [0.04, 0.01]
    assert files.recordings("mlp-cifar10", seed=1) == []


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


# --- killed, resumed, asked for twice ---------------------------------------------------------------------------------

#: A run of the whole machinery on the small network; argument: what to do, then the folders to do it in.
DRIVER = """
import os, signal, sys, types
sys.path.insert(0, sys.argv[1])
import jax, oracles
from eoslib.objective import Objective
from eoslib.trajectories import approach
from selfstab import experiment, settings
from selfstab.runs import checkpoints, compute

def prepare(setting, seed, *, folder=None):
    print("computing", flush=True)
    with jax.enable_x64(True):
        objective = Objective.create(oracles.mlp_loss, oracles.mlp_params(), oracles.mlp_batch(), dtype="float32")
        theta = objective.ravel(oracles.mlp_params())
    return experiment.Experiment(objective, theta, None, types.SimpleNamespace(digest="none"))

def killing(function, calls):
    left = [calls]
    def wrapped(*arguments, **options):
        found = function(*arguments, **options)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    return wrapped

experiment.prepare = prepare
checkpoints.CHECKPOINT_SECONDS = 0.0
setting = settings.get(
    "mlp-cats-dogs", "test", learning_rate=oracles.RATE, tracked_steps=75, generalized=True, transport=20, strided=25
)
for folder, killed in zip(sys.argv[2::2], sys.argv[3::2]):
    os.environ["EOSLIB_RESULTS"] = folder
    if killed == "approach":
        approach.descend = killing(approach.descend, 3)
    elif killed == "middle":
        checkpoints.Checkpoints.save = killing(checkpoints.Checkpoints.save, 3)  # the approach, then two chunks
    compute.compute(setting, 0, progress=False)
    print("done", flush=True)
"""


def driver(*folders_and_fates):
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    here = pathlib.Path(__file__).parent
    command = [sys.executable, "-c", DRIVER, str(here), *map(str, folders_and_fates)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, env=environment, cwd=here.parent, **pipes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run left alone; and one killed on the way to the edge, killed again in the middle, then asked for twice."""
    whole, cut = (tmp_path_factory.mktemp(name) for name in ("whole", "cut"))

    def ends(*processes):
        said = [process.communicate(timeout=1200) for process in processes]
        return [(process.returncode, out.split(), err[-2000:]) for process, (out, err) in zip(processes, said)]

    (first,) = ends(driver(whole, "never", cut, "approach"))
    (second,) = ends(driver(cut, "middle"))
    kept = [f.name for f in cut.rglob("*") if f.name in ("last", "seconds") or f.suffix == ".nc"]
    both = ends(driver(cut, "never"), driver(cut, "never"))
    return types.SimpleNamespace(whole=whole, cut=cut, first=first, second=second, kept=kept, both=both)


def test_a_killed_run_is_killed_and_leaves_a_checkpoint(runs):
    assert runs.first[:2] == (-signal.SIGKILL, ["computing", "done", "computing"]), runs.first[2]
    assert runs.second[:2] == (-signal.SIGKILL, ["computing"]), runs.second[2]
    assert sorted(runs.kept) == ["last", "seconds"]  # and no run file


def test_two_that_ask_for_one_run_do_the_work_once(runs):
    assert [code for code, *_ in runs.both] == [0, 0], runs.both
    assert sorted(said for _, said, _ in runs.both) == [["computing", "done"], ["done"]]
    assert [f.suffix for f in (runs.cut / "test").iterdir()] == [".nc"]  # nothing half-written


def test_a_killed_run_ends_in_the_numbers_of_one_left_alone(runs):
    (file,) = (runs.whole / "test").iterdir()
    expected, resumed = files.load(file), files.load(runs.cut / "test" / file.name)
    assert expected.sizes["t"] == 75
    assert expected.sizes["stride"] == 3
    assert set(expected.variables) == set(resumed.variables)
    for name in expected.variables:
        np.testing.assert_array_equal(resumed[name], expected[name], err_msg=str(name))
    differing = {name for name in expected.attrs if expected.attrs[name] != resumed.attrs[name]}
    assert differing <= {"seconds", "date", "commit"}
    assert resumed.attrs["seconds"] > 0


def test_a_finished_run_is_loaded_and_leaves_no_checkpoint(runs, monkeypatch):
    monkeypatch.setenv("EOSLIB_RESULTS", str(runs.cut))
    assert not [f for f in (runs.cut / "checkpoints").rglob("*") if f.is_dir()]
    attributes = files.load(next((runs.cut / "test").iterdir())).attrs
    setting = settings.Setting(**json.loads(attributes["setting"]))
    assert setting.digest() == attributes["setting_digest"]
    monkeypatch.setattr(compute, "compute", None)  # would fail if called
    assert compute.load_or_run(setting, 0).attrs == attributes


def test_whole_cycles_begin_at_the_first_step_and_end_where_y_turns_positive_again():
    run = xr.Dataset({"y": ("t", [0.1, 2.0, -1.0, -2.0, 0.5, 1.0, -1.0, 0.0, -1.0])})
    assert quantities.cycles(run).tolist() == [0, 4, 7]
    assert quantities.cycles(run.isel(t=slice(3))).tolist() == [0]


def test_the_first_predicted_cycle_begins_where_the_prediction_is_gradient_descent():
    run = xr.Dataset(
        {"y": ("t", [0.1, 2.0, -1.0, -2.0, 0.5, 1.0, -1.0]), "predicting": ("t", [0, 0, 1, 1, 1, 1, 1])},
        {"t": range(7)},
    )
    assert quantities.first_cycle(run) == slice(1, 5)
    assert quantities.first_cycle(run.isel(t=slice(4))) == slice(1, 4)
    starts = [run.assign_attrs(single_direction_until=late) for late in (0, 2, -1)]
    assert [each.sizes["t"] for each in quantities.one_direction(starts)] == [2, 7]
    assert quantities.first_cycle(run.assign(predicting=0 * run.y)) == slice(0, 5)
