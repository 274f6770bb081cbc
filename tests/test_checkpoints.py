"""Runs that are killed, resumed, or asked for twice, and their checkpoints."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import types

import numpy as np
import pytest

from selfstab import settings
from selfstab.runs import checkpoints, compute, files

#: A run of the whole machinery on the small network; argument: what to do, then the folders to do it in.
DRIVER = """
import os, signal, sys, types
sys.path.insert(0, sys.argv[1])
import jax, oracles
from eoslib.objective import Objective
from eoslib.trajectories import approach
from selfstab import experiment, settings
from selfstab.runs import checkpoints, compute

def prepare(setting, seed, *, folder=None, devices=None):
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

def counting(function):
    def wrapped(*arguments, **options):
        print("descent", flush=True)
        return function(*arguments, **options)
    return wrapped

approach.descend = counting(approach.descend)
experiment.prepare = prepare
checkpoints.FRACTION = float("inf")  # each state is saved
setting = settings.get(
    "mlp-cats-dogs", "test", learning_rate=oracles.RATE, tracked_steps=75, generalized=True, transport=20, strided=25
)
for folder, killed in zip(sys.argv[2::2], sys.argv[3::2]):
    os.environ["EOSLIB_RESULTS"] = folder
    if killed == "approach":
        approach.descend = killing(approach.descend, 5)
    elif killed == "middle":
        checkpoints.Checkpoints.save = killing(checkpoints.Checkpoints.save, 2)  # two chunks of three
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
    kept = [f.suffix for f in cut.rglob("*") if f.suffix in (".npz", ".nc")]
    both = ends(driver(cut, "never"), driver(cut, "never"))
    return types.SimpleNamespace(whole=whole, cut=cut, first=first, second=second, kept=kept, both=both)


def test_a_killed_run_leaves_checkpoints_and_goes_on_from_the_last(runs):
    """Also on the way to the edge, where it loses the one interval that it was in."""
    (code, said, told), (again, resumed, words) = runs.first, runs.second
    assert code == again == -signal.SIGKILL, told + words
    whole = said.index("done") - 1  # descents of a run left alone
    assert said == ["computing", *["descent"] * whole, "done", "computing", *["descent"] * 5]
    assert resumed == ["computing", *["descent"] * (whole - 4)]
    assert runs.kept == [".npz"] * 2  # and no run file


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


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """``checkpoint()`` is the keeper that a process finds; each state that it is given is saved."""
    monkeypatch.setattr(checkpoints, "FRACTION", float("inf"))
    return lambda: checkpoints.Checkpoints(tmp_path)


def state_of(keeper):
    found = keeper.restore((np.zeros(100), np.zeros((), int)))
    return found and int(found[0][1])


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(checkpoint, tmp_path, capsys):
    """A flip of any byte is seen; with both damaged the run starts afresh."""
    keeper = checkpoint()
    assert state_of(keeper) is None
    for number in range(1, 4):
        keeper.save((np.arange(100.0), number), {"gd_loss": [np.ones(3)], "rho3": [1.0, 2.0]})
    assert state_of(checkpoint()) == 3
    before, last = sorted(tmp_path.iterdir())
    whole = last.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 60).astype(int):
        last.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        assert state_of(checkpoint()) == 2
        assert f"{last} is damaged (its checksum is another): the one before it is used" in capsys.readouterr().err
    last.write_bytes(whole[:1000])
    before.write_bytes(b"")
    keeper = checkpoint()
    assert state_of(keeper) is None
    assert f"{before} is damaged (its checksum is another): the run starts afresh" in capsys.readouterr().err
    keeper.save((np.arange(100.0), 7), {})
    assert state_of(checkpoint()) == 7


@pytest.mark.parametrize("step", ["savez", "fsync", "replace", "unlink"])
def test_a_save_cut_short_at_any_step_leaves_a_whole_checkpoint(checkpoint, tmp_path, monkeypatch, step):
    keeper = checkpoint()
    for number in (1, 2):
        keeper.save((np.arange(100.0), number), {})
    place = {"savez": np, "fsync": os}.get(step, pathlib.Path)

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(place, step, killed)
        with pytest.raises(KeyboardInterrupt):
            keeper.save((np.arange(100.0), 3), {})
    keeper = checkpoint()
    assert state_of(keeper) == (3 if step == "unlink" else 2)
    keeper.save((np.arange(100.0), 4), {})
    assert state_of(checkpoint()) == 4
    assert len(list(tmp_path.iterdir())) == 2  # nothing half-written is left


def test_saving_takes_a_bounded_fraction_of_the_time_and_a_full_disk_ends_no_run(tmp_path, monkeypatch, capsys):
    clock = iter(np.arange(1000.0))
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: next(clock))
    keeper, written = checkpoints.Checkpoints(tmp_path), []
    monkeypatch.setattr(keeper, "_write", lambda arrays: written.append(next(clock)))
    for _ in range(200):
        keeper.save((), {})
    spent = 4 * len(written)  # ticks between the two looks at the clock that frame a save
    assert len(written) >= 2
    assert spent <= 2 * checkpoints.FRACTION * written[-1]

    def full(arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "FRACTION", float("inf"))
    monkeypatch.setattr(keeper, "_write", full)
    keeper.save((), {})
    assert "No checkpoint was written ([Errno 28] No space left on device); the run goes on." in capsys.readouterr().err


def test_a_finished_run_is_loaded_and_leaves_no_checkpoint(runs, monkeypatch):
    monkeypatch.setenv("EOSLIB_RESULTS", str(runs.cut))
    assert not [f for f in (runs.cut / "checkpoints").rglob("*") if f.is_dir()]
    attributes = files.load(next((runs.cut / "test").iterdir())).attrs
    setting = settings.Setting(**json.loads(attributes["setting"]))
    assert setting.digest() == attributes["setting_digest"]
    monkeypatch.setattr(compute, "compute", None)  # would fail if called
    assert compute.load_or_run(setting, 0).attrs == attributes


def test_a_track_that_was_resumed_keeps_the_approach_too(tmp_path):
    """So that it need not be computed again after a second kill."""
    checkpoints.Checkpoints(tmp_path).save_approach((np.arange(3.0),))
    resumed = checkpoints.Checkpoints(tmp_path)
    np.testing.assert_array_equal(*resumed.restore_approach((0,)), np.arange(3.0))
    resumed.save((np.zeros(2),), {})
    again = checkpoints.Checkpoints(tmp_path)
    assert again.restore((np.zeros(2),)) is not None
    np.testing.assert_array_equal(*again.restore_approach((0,)), np.arange(3.0))
