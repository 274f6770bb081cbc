"""Run files: schema, digests, reasons to compute again, checkpoints."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import xarray as xr

from eoslib.trajectories import variables
from selfstab import experiment, settings
from selfstab.runs import checkpoints, compute, files, provenance, quantities
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


def test_a_run_of_less_than_two_cycles_is_a_pilot():
    """With η = .1 and α = 2: ε = √2/10, and a cycle lasts 10π steps."""
    run = xr.Dataset({"alpha": ("t", np.full(100, 2.0))}, {"t": range(100)}, {"learning_rate": 0.1})
    assert quantities.lasted(run) == pytest.approx(10 / np.pi)
    assert quantities.lasted(run.assign(alpha=run.alpha.where(run.t < 50, -1.0))) == pytest.approx(5 / np.pi)
    assert [quantities.is_pilot(run.isel(t=slice(n))) for n in (62, 63)] == [True, False]
    assert quantities.lasted(xr.Dataset()) == 0


def test_a_prediction_is_followed_until_it_is_off_by_delta():
    error = [0.0, 0.9, 0.2, 1.1, 0.1, np.nan]
    run = xr.Dataset(
        {"predicted_error": ("t", error), "delta_squared": ("t", np.ones(6)), "alpha": ("t", np.full(6, 2.0))}
        | {"y": ("t", np.ones(6)), "predicting": ("t", [0, 1, 1, 1, 1, 1])},
        {"t": range(6)},
        {"learning_rate": 0.1},
    )
    assert quantities.followed(run) == (3, pytest.approx(0.3 / np.pi))
    late = run.assign(
        predicted_error=run.predicted_error[::-1].drop_vars("t")
    )  # not finite at its start: there it is exact
    assert quantities.followed(late)[0] == 2
    near = run.assign(predicted_error=0 * run.y, generalized_error=("t", [0.0, 0.0, np.nan, 0.0, 0.0, 0.0]))
    assert quantities.followed(near)[0] == 6
    assert quantities.followed(near, "generalized")[0] == 2


def test_a_track_that_was_resumed_keeps_the_approach_too(tmp_path):
    """So that it need not be computed again after a second kill."""
    checkpoints.Checkpoints(tmp_path).save_approach((np.arange(3.0),))
    resumed = checkpoints.Checkpoints(tmp_path)
    np.testing.assert_array_equal(*resumed.restore_approach((0,)), np.arange(3.0))
    resumed.save((np.zeros(2),), {})
    again = checkpoints.Checkpoints(tmp_path)
    assert again.restore((np.zeros(2),)) is not None
    np.testing.assert_array_equal(*again.restore_approach((0,)), np.arange(3.0))
