"""`make figures PROFILE=slurm` on a real SLURM: a job requeued, the submitter killed; the results of a local run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import loopback
import pytest
import test_workflow
import yaml
from filelock import FileLock
from test_workflow import PATIENCE, edit, project, wait_for, working  # noqa: F401

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUNS = {f"run toy--eta{rate}--seed0" for rate in (0.1, 0.2, 0.3)}


def test_the_profile_decides_what_runs_again_as_the_local_one_does():
    slurm, local = (
        yaml.safe_load((ROOT / "workflow" / "profiles" / name / "config.yaml").read_text())
        for name in ("slurm", "default")
    )
    assert {name: slurm.get(name) for name in local} == local


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A SLURM of four processors; skips where there can be none."""
    if not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        pytest.skip("no snakemake-executor-plugin-slurm; `make environment` installs it")
    with contextlib.ExitStack() as stack:
        if not os.geteuid():
            stack.enter_context(FileLock(pathlib.Path(tempfile.gettempdir(), "eoslib-test-slurm.lock")))
        if reason := loopback.why_not():
            pytest.skip(f"no SLURM: {reason}")
        yield stack.enter_context(loopback.slurm(tmp_path_factory.mktemp("slurm")))


@pytest.fixture
def checkout(slurm, project):  # noqa: F811
    """The small project, asking the queue more often than one would ask a cluster that others use."""
    profile = project / "workflow" / "profiles" / "slurm" / "config.yaml"
    edit(profile, "status-checks: 10", "status-checks: 1")
    edit(profile, "before-status-checks: 5", "before-status-checks: 1")
    edit(profile, "  run: 4", "  run: 1")
    yield project
    subprocess.run(["scancel", "--me"], check=False)


def command(checkout: pathlib.Path, profile: str = "slurm") -> list[str]:
    return [*test_workflow.command(checkout), "--profile", profile, "--jobs", "4"]


def surroundings(checkout: pathlib.Path) -> dict[str, str]:
    known = test_workflow.surroundings(checkout)
    return known | {"PYTHONPATH": os.pathsep.join([known["PYTHONPATH"], *sys.path[1:]])}


def ended(process: subprocess.Popen) -> str:
    """What a call that must succeed says."""
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told
    return told


def call(checkout: pathlib.Path, *asked: str) -> subprocess.Popen:
    return subprocess.Popen(command(checkout, *asked), env=surroundings(checkout), stderr=subprocess.PIPE, text=True)


def queue(*states: str) -> dict[str, str]:
    """Rule and wildcards of the jobs in the queue, by number."""
    asked = ["squeue", "--me", "--noheader", "--format=%i|%k", f"--states={','.join(states) or 'all'}"]
    lines = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(line.split("|", 1) for line in lines)


def at_work() -> dict[str, str] | None:
    """The queue, once three runs are running in it."""
    return found if len(found := queue("RUNNING")) == 3 else None


def numbers(checkout: pathlib.Path) -> dict[str, str]:
    folder = checkout / "results" / "test"
    return {file.name: file.read_text() for file in [*folder.glob("*.nc"), folder / "claims.json"]}


def test_what_was_written_unattended_is_accepted_only_where_it_says_what_it_is(project):  # noqa: F811
    ended(call(project, "default"))
    note = project / ".cache" / "unattended-test.json"  # as a call leaves it whose process was killed
    note.write_text("{}")
    told = ended(call(project, "default"))
    assert not {line.split(": ")[0] for line in told.splitlines()} & RUNS
    assert told.count("executed after its call had ended") == 2
    assert not note.exists()
    note.write_text(json.dumps({file.name: 0 for file in project.glob("results/test/*0.1*.nc")}))
    for file in project.glob("results/test/notebooks/*.ipynb"):
        known = json.loads(note.read_text()) | {f"notebooks/{file.name}": file.stat().st_mtime_ns}
        note.write_text(json.dumps(known))
    assert "executed" not in ended(call(project, "default"))


def test_requeued_and_killed_it_ends_in_the_numbers_of_a_local_run(checkout, tmp_path_factory):
    local = tmp_path_factory.mktemp("local") / "checkout"
    shutil.copytree(checkout, local)
    ended(call(local, "default"))

    # All jobs through the queue, one of them preempted and started again.
    (checkout / "slow").touch()
    target = call(checkout)
    wait_for(at_work)
    number = next(iter(queue("RUNNING")))
    subprocess.run(["scontrol", "requeue", number], check=True)
    wait_for(lambda: number in queue("PENDING"))
    subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], check=True)  # SLURM waits two minutes
    wait_for(at_work)
    (checkout / "slow").unlink()
    told = ended(target)
    assert numbers(checkout) == numbers(local)
    starts = {line.split(": ")[0] for line in told.splitlines() if "not there yet" in line}
    assert starts >= RUNS | {"notebook first", "notebook second"}
    assert not {line.split(": ")[0] for line in ended(call(checkout)).splitlines()} & starts, "nothing was left to do"

    # The submitter is killed; its jobs go on, and the next call waits for them.
    for one in (checkout, local):
        edit(one / "eoslib" / "numeric.py", "FACTOR = 2", "FACTOR = 3")
    ended(call(local, "default"))
    (checkout / "slow").touch()
    target = call(checkout)
    before = wait_for(at_work)
    target.send_signal(signal.SIGKILL)
    target.communicate()
    wait_for(lambda: not any("engine.py" in " ".join(p.info["cmdline"]) for p in working(checkout)))
    assert queue("RUNNING") == before
    again = call(checkout)
    assert "3 jobs of an earlier call go on in the cluster's queue" in again.stderr.readline()
    (checkout / "slow").unlink()
    told = ended(again)
    assert numbers(checkout) == numbers(local)
    assert not {line.split(": ")[0] for line in told.splitlines()} & RUNS, "the runs were computed once"
    assert all(json.loads(text) for text in numbers(checkout).values())
