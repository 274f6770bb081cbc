"""The targets and the graph behind them, on a small project that needs no JAX: what runs again, and why; kill -9."""

from __future__ import annotations

import concurrent.futures
import copy
import doctest
import importlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time

import nbformat
import psutil
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

#: Seconds after which something counts as hanging, on the slowest machine; nothing that works waits for it.
PATIENCE = 600

SETTINGS = """
    import dataclasses
    SCALES = ("test", "quick", "paper")

    def check_known(field, value, names):
        if value not in names:
            raise ValueError(f"unknown {field} {value!r}; known: {', '.join(names)}")

    @dataclasses.dataclass(frozen=True)
    class Setting:
        name: str
        scale: str
        learning_rate: float
        def digest(self):
            return f"{round(1000 * self.learning_rate):016x}"
        def key(self, seed):
            return f"{self.name}--eta{self.learning_rate:g}--seed{seed}"
"""
CHAPTERS = """
    import dataclasses
    from selfstab import settings
    RATES = {"first": (0.1, 0.2), "second": (0.3,)}

    @dataclasses.dataclass(frozen=True)
    class Run:
        rate: float
        seed_offset: int = 0
        def setting(self, scale):
            return settings.Setting("toy", scale, self.rate)
        def key(self, scale, seed):
            return self.setting(scale).key(seed + self.seed_offset)

    RUNS = {name: tuple(Run(rate) for rate in rates) for name, rates in RATES.items()}

    def runs(chapter, scale):
        return RUNS.get(chapter, ())
"""
FILES = """
    import json
    from selfstab.records.paths import results_root
    from selfstab.source import numerical_digest

    def path(setting, seed):
        return results_root() / setting.scale / f"{setting.key(seed)}.nc"

    def stale(setting, seed):
        return None if json.loads(path(setting, seed).read_text())["code"] == numerical_digest() else "its code changed"
"""
COMPUTE = """
    import argparse, json, time
    from selfstab import experiment, settings
    from selfstab.records.paths import ROOT
    from selfstab.runs.files import path
    from selfstab.source import numerical_digest

    def main(arguments):
        parser = argparse.ArgumentParser()
        for name in ("--name", "--scale"):
            parser.add_argument(name)
        parser.add_argument("--seed", type=int)
        parser.add_argument("--learning-rate", type=float)
        asked = parser.parse_args(arguments)
        while (ROOT / "slow").exists():  # for as long as the test wants it to be at work
            time.sleep(0.1)
        setting = settings.Setting(asked.name, asked.scale, asked.learning_rate)
        value = experiment.factor() * setting.learning_rate
        path(setting, asked.seed).write_text(json.dumps({"code": numerical_digest(), "value": value}))
        return 0
"""
PAGE = """
    import json
    from selfstab import chapters
    from selfstab.records.paths import results_root
    from selfstab.records.store import CLAIM_FIELDS, FIGURE_FIELDS, FIGURE_FILES, PROVENANCE_FIELDS, write_json
    from selfstab.runs import files

    def close(notebook, scale, seed):
        runs = [files.path(run.setting(scale), seed) for run in chapters.RUNS[notebook]]
        values = [json.loads(run.read_text())["value"] for run in runs]
        folder = results_root() / scale / "figures" / notebook
        folder.mkdir(parents=True, exist_ok=True)
        figure = dict.fromkeys(FIGURE_FIELDS, "") | {"id": notebook, "provenance": dict.fromkeys(PROVENANCE_FIELDS, "")}
        for kind in FIGURE_FILES:
            (folder / f"{notebook}.{kind}").write_text("drawn")
            figure[kind] = f"figures/{notebook}/{notebook}.{kind}"
        claim = dict.fromkeys(CLAIM_FIELDS, "") | {"id": notebook, "measured": values, "verdict": "holds"}
        record = {"notebook": notebook, "claims": [claim], "figures": [figure]}
        write_json(results_root() / scale / "records" / f"{notebook}.json", record)
"""
#: The toy's modules; the digests, the records and the workflow are the real ones.
MODULES = {
    "eoslib/__init__": "",
    "eoslib/numeric": '"""Numbers."""\nFACTOR = 2\n',
    "selfstab/runs/checkpoints": "",
    "selfstab/settings": SETTINGS,
    "selfstab/chapters": CHAPTERS,
    "selfstab/experiment": "from eoslib import numeric\n\ndef factor():\n    return numeric.FACTOR\n",
    "selfstab/runs/files": FILES,
    "selfstab/runs/compute": COMPUTE,
    "selfstab/page": PAGE,
}


@pytest.fixture
def module(monkeypatch):
    """``module("chapters")``: a script of the graph, imported."""
    monkeypatch.syspath_prepend(str(ROOT / "workflow"))
    return importlib.import_module


@pytest.fixture
def project(tmp_path):
    """A checkout with the real graph and scripts, a toy library and two notebooks, at a place with an unusual name."""
    tmp_path /= "it's {my} Größe"
    tmp_path.mkdir()
    for folder in ("workflow", "selfstab/records"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "notebooks").mkdir()
    for name, source in MODULES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    real = ("Snakefile", "Makefile", "pyproject.toml", "eoslib/pyproject.toml", "requirements.lock")
    for name in (*real, "selfstab/__init__.py", "selfstab/source.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("first", "second"):
        parameters = nbformat.v4.new_code_cell('scale = "quick"\nseed = 0', metadata={"tags": ["parameters"]})
        work = nbformat.v4.new_code_cell(f'from selfstab import page\npage.close("{name}", scale, seed)')
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {name}"), parameters, work])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    yield tmp_path
    (tmp_path / "slow").unlink(missing_ok=True)  # a job that a failing test left behind ends, too


def surroundings(project: pathlib.Path) -> dict[str, str]:
    hidden = ("EOSLIB_RESULTS", "PYTHONWARNINGS")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {"PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}


def command(project: pathlib.Path) -> list[str]:
    return [sys.executable, str(project / "workflow" / "make.py"), "figures", "--scale", "test"]


def call(project: pathlib.Path, **variables: str) -> dict[str, str]:
    """`make figures`: the jobs that ran, each with its reason."""
    environment = surroundings(project) | variables
    told = subprocess.run(command(project), env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert told.returncode == 0, told.stderr
    starts = [line.split(": ", 1) for line in told.stderr.splitlines() if ": " in line and ": done in" not in line]
    return dict(starts)


def edit(file: pathlib.Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_what_changes_runs_again_and_nothing_else(project):
    runs = {f"run toy--eta{rate}--seed0" for rate in (0.1, 0.2, 0.3)}
    notebooks = {"notebook first", "notebook second"}
    # Where the locale is ASCII; the other calls, in the tests' own, must find nothing changed by that.
    first = call(project, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert first.keys() == runs | notebooks | {"claims and figures"}
    assert set(first.values()) == {"not there yet"}

    # Dates, comments and docstrings are no content; a package of the book's is none of the figures' business.
    edit(project / "eoslib" / "numeric.py", '"""Numbers."""', '"""Other words."""\n# why')
    edit(project / "requirements.lock", "\nsphinx-proof==", "\nsphinx-proof==9.")
    for file in [*project.glob("*/*.*"), *project.glob("results/test/**/*")]:
        os.utime(file)
    assert call(project) == {}

    # One η: its run, the notebook that draws on it, and what gathers notebooks.  And a cell of the other notebook.
    edit(project / "selfstab" / "chapters.py", "(0.3,)", "(0.35,)")
    edit(project / "notebooks" / "first.ipynb", "# first", "# The first")
    third = call(project)
    assert third.keys() == {"run toy--eta0.35--seed0", "notebook first", "notebook second", "claims and figures"}
    assert third["notebook first"] == "notebook changed"
    assert third["notebook second"].startswith("new run toy--eta0.35--seed0")

    # The library: every run, and so every notebook.
    edit(project / "eoslib" / "numeric.py", "FACTOR = 2", "FACTOR = 3")
    fourth = call(project)
    assert {fourth[f"run toy--eta{rate}--seed0"] for rate in (0.1, 0.2, 0.35)} == {"its code changed"}
    assert fourth["notebook first"] == "new 2 runs"
    assert fourth["notebook second"] == "new run toy--eta0.35--seed0"
    claims = json.loads((project / "results" / "test" / "claims.json").read_text())
    assert [claim["measured"] for claim in claims] == [pytest.approx([0.3, 0.6]), pytest.approx([1.05])]


def test_what_is_damaged_or_deleted_is_made_again(project):
    """Nothing is believed for being there; what was made "tomorrow", by a clock that was wrong, is no mistake."""
    call(project)
    results = project / "results" / "test"
    tomorrow = time.time() + 86_400
    for file in [*results.glob("*.nc"), *(results / "notebooks").iterdir(), project / "notebooks" / "first.ipynb"]:
        os.utime(file, (tomorrow, tomorrow))
    (results / "figures" / "first" / "first.svg").unlink()
    (results / ".toy.nc.1.tmp").touch()  # left by a process that was killed
    assert call(project) == {"notebook first": "first.svg is missing", "claims and figures": "new first"}
    assert (results / "figures" / "first" / "first.svg").exists()
    assert not (results / ".toy.nc.1.tmp").exists()

    claims = (results / "claims.json").read_text()
    (results / "claims.json").write_text(claims[:100])
    assert call(project) == {"claims and figures": "it does not hold what the notebooks recorded"}
    assert (results / "claims.json").read_text() == claims


def working(project: pathlib.Path) -> list[psutil.Process]:
    """Living processes of a checkout's graph."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        mine = any(str(project) in word for word in process.info["cmdline"] or [])
        if mine and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not (seen := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE} s"
        time.sleep(0.1)
    return seen


def running_jobs(project: pathlib.Path) -> bool:
    return any("job.py" in " ".join(process.info["cmdline"]) for process in working(project))


def test_killed_and_called_again(project):
    """Kill -9 of the target leaves no process; the next call continues without a word of Snakemake's about locks."""
    (project / "slow").touch()
    # The shell stands for make: the target is its child.
    shell = subprocess.Popen(["sh", "-c", f"{shlex.join(command(project))}; true"], env=surroundings(project))
    wait_for(lambda: running_jobs(project))
    second = subprocess.run(
        command(project), env=surroundings(project), capture_output=True, text=True, timeout=PATIENCE
    )
    assert second.returncode == 1
    assert "Another make is at work in this folder (process " in second.stderr
    assert "Traceback" not in second.stderr
    shell.kill()
    shell.wait()
    wait_for(lambda: not working(project))
    assert list((project / ".snakemake" / "locks").iterdir()), "the kill should leave Snakemake's lock behind"

    # Interrupted once more, this time politely, while the stale lock is cleared and the work goes on.
    # As from a terminal: in the background of a script Ctrl-C is ignored, and children inherit that.  (Not by
    # preexec_fn, which forks, and a fork of a process with JAX's threads warns.)
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    target = subprocess.Popen(
        [sys.executable, "-c", heed, *command(project)], env=surroundings(project), stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: running_jobs(project))
    target.send_signal(signal.SIGINT)
    _, told = target.communicate(timeout=PATIENCE)
    assert target.returncode == 130
    assert "continuing" in told
    assert "Stopped. `make figures SCALE=test` continues from here." in told
    assert not working(project)

    (project / "slow").unlink()
    last = subprocess.run(command(project), env=surroundings(project), capture_output=True, text=True, timeout=PATIENCE)
    assert last.returncode == 0, last.stderr
    assert "notebook second: done in" in last.stderr
    assert "unlock" not in (told + last.stderr).lower()
    assert "LockException" not in told + last.stderr


def test_a_failing_cell_is_shown(project):
    edit(project / "notebooks" / "second.ipynb", "page.close(", "page.closed(")
    told = subprocess.run(command(project), env=surroundings(project), capture_output=True, text=True, timeout=PATIENCE)
    assert told.returncode == 1
    assert "has no attribute 'closed'" in told.stderr
    assert "notebook second: FAILED; its whole log is" in told.stderr
    assert "notebook first: done in" in told.stderr, "independent work goes on"
    assert not (project / "results" / "test" / "claims.json").exists()


def test_a_kernel_that_dies_before_it_says_a_word_is_started_again(module, capsys):
    """Its ports are chosen free and bound later; between the two another process can take them."""
    started, words = (
        module("job").started,
        iter(["Kernel died before replying to kernel_info"] * 2 + [None] + ["Kernel died"]),
    )

    def execute(source):
        if word := next(words):
            raise RuntimeError(word)
        return source

    assert started(execute, "a.ipynb") == "a.ipynb"
    assert capsys.readouterr().out.count("started again") == 2
    with pytest.raises(RuntimeError, match=r"^Kernel died$"):  # it had run cells: once is enough
        started(execute, "b.ipynb")
    words = iter(["Kernel died before replying to kernel_info"] * 3)
    with pytest.raises(RuntimeError, match="before replying"):
        started(execute, "c.ipynb")


def test_a_job_that_was_killed_is_reported_as_killed(project):
    """And not by an empty log; a home that cannot be written does not matter."""
    (project / "slow").touch()
    surrounding = surroundings(project)
    target = subprocess.Popen(command(project), env=surrounding, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: running_jobs(project))
    jobs = [process for process in working(project) if "job.py" in " ".join(process.info["cmdline"])]
    victims = [process for process in jobs if process.info["cmdline"][0] == sys.executable]
    (project / "slow").unlink()
    for process in victims:
        process.kill()
    _, told = target.communicate(timeout=PATIENCE)
    assert target.returncode == 1
    assert "its process was killed" in told
    assert "Traceback" not in told
    assert call(project, HOME=os.devnull)


def test_a_target_that_cannot_write_says_so(project):
    """As on a full disk or in a read-only checkout; here a file stands where a folder should be."""
    (project / ".cache").touch()
    told = subprocess.run(command(project), env=surroundings(project), capture_output=True, text=True, timeout=PATIENCE)
    assert told.returncode == 1
    assert "Nothing can be made here: " in told.stderr
    assert str(project / ".cache") in told.stderr
    assert "Traceback" not in told.stderr


def test_a_busy_port_is_reported(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = str(held.getsockname()[1])
        serve = [sys.executable, str(ROOT / "workflow" / "serve.py"), str(tmp_path), port]
        told = subprocess.run(serve, capture_output=True, text=True, timeout=PATIENCE)
    assert told.returncode == 1
    assert told.stderr.startswith(f"Port {port} cannot be had")
    assert "Traceback" not in told.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_explains_itself(project):
    def make(*words, **variables):
        asked = [shutil.which("make"), *words]
        return subprocess.run(asked, cwd=project, env=os.environ | variables, capture_output=True, text=True)

    listed = make("help").stdout
    for target in ("book", "figures", "record", "test", "lint", "bench", "serve", "pdf", "lock", "clean"):
        assert f"make {target} " in listed
    for wrong in ("SCALE=huge", "SEED=one", "JOBS=0"):
        told = make("book", wrong)
        assert told.returncode != 0
        name, value = wrong.split("=")
        assert f"{name} must be" in told.stderr
        assert f"got '{value}'" in told.stderr
    told = make("record")
    assert told.returncode != 0
    assert told.stderr.startswith("make record needs the NAME of a setting")
    told = make("environment", PATH=str(project / "nothing"))
    assert told.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in told.stderr
    assert not (project / ".venv").exists()


@pytest.fixture
def environment(module, tmp_path, monkeypatch):
    """The maker of ``.venv``, at work in a copy of what it reads; no uv is on the path."""
    environment = module("environment")
    (tmp_path / "eoslib").mkdir()
    for name in ("pyproject.toml", "eoslib/pyproject.toml", "requirements.lock", "requirements-cuda12.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    folder = tmp_path / ".venv"
    places = {"ROOT": tmp_path, "FOLDER": folder, "PYTHON": folder / "bin" / "python"}
    for name, place in (places | {"UNFINISHED": folder / ".unfinished"}).items():
        monkeypatch.setattr(environment, name, place)
    environment.made = []

    def create(folder, **options):
        environment.made.append(folder)
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(sys.executable)

    monkeypatch.setattr(environment.venv, "create", create)
    monkeypatch.setattr(environment.shutil, "which", lambda name, path=None: None)
    for package in ("eoslib", "selfstab"):  # where the toy's python finds them: in this very folder
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return environment


def test_environment_is_made_once_and_again_after_an_interruption(environment, monkeypatch, capsys):
    folder, made, installed = environment.FOLDER, environment.made, []

    def interrupted(*command, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "run", interrupted)
    assert environment.main() == 130
    assert (folder / ".unfinished").exists()
    (folder / "half-installed").touch()

    monkeypatch.setattr(environment, "run", lambda *command, **options: installed.append((command, options)))
    assert environment.main() == 0
    assert len(made) == 2
    assert not (folder / "half-installed").exists()
    (fetched, given), (synced, _), (editable, _) = installed
    assert fetched[:3] == (environment.PYTHON, "-m", "pip")
    assert given["input"].startswith("uv==")
    assert given["input"].count("==") == 1
    assert {"--require-hashes", "requirements.lock"} <= set(synced)
    assert synced[0] == editable[0] == folder / "bin" / "uv"
    assert editable[-4:] == ("--editable", "./eoslib", "--editable", ".")
    assert "Making .venv" in capsys.readouterr().out
    assert environment.main() == 0
    assert len(installed) == 3
    assert not capsys.readouterr().out

    for name, old, new in (
        ("requirements.lock", "\nuv==", "\nuv==9."),
        ("eoslib/pyproject.toml", '"tqdm', '"tqdm[all]'),
    ):
        edit(environment.ROOT / name, old, new)
        stamps = list(folder.glob(".stamp-*"))
        assert environment.main() == 0
        assert len(made) == 2, f"a changed {name} updates the environment in place"
        assert len(list(folder.glob(".stamp-*"))) == 1
        assert list(folder.glob(".stamp-*")) != stamps


def test_an_environment_of_another_checkout_is_noticed(environment, monkeypatch, capsys):
    """As after a checkout was renamed or copied: it is made again, in words; what a link leads to is left alone."""
    folder, root, made = environment.FOLDER, environment.ROOT, environment.made
    monkeypatch.setattr(environment, "run", lambda *command, **options: None)
    assert environment.main() == 0
    capsys.readouterr()

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert environment.elsewhere() == str(ROOT)
    place = folder.stat().st_ino
    assert environment.main() == 0
    assert folder.stat().st_ino == place, "a mount cannot be removed, only emptied"
    assert len(made) == 2
    assert f"The eoslib of .venv comes from {ROOT}, not from this folder: making it again." in capsys.readouterr().out
    folder.rename(root / "moved")
    folder.symlink_to(root / "moved")
    before = sorted(folder.rglob("*"))
    assert environment.main() == 1
    assert (
        f"{folder} is a link to {root / 'moved'}, which is no environment of this checkout." in capsys.readouterr().err
    )
    assert sorted(folder.rglob("*")) == before
    folder.unlink()
    (root / "room").mkdir()
    folder.symlink_to(root / "room")
    assert environment.main() == 0
    assert folder.is_symlink(), "an empty folder elsewhere is a place like any other"
    folder.unlink()
    folder.symlink_to(root / "nowhere")
    capsys.readouterr()
    assert environment.main() == 1
    assert "The environment cannot be made: File exists" in capsys.readouterr().err


def test_what_a_gpu_needs_is_installed_where_asked_for_and_kept(environment, monkeypatch, capsys):
    installed = []
    monkeypatch.setattr(environment, "run", lambda *command, **options: installed.append(command))
    both = ["requirements.lock", "requirements-cuda12.lock"]
    for asked, locks in ((None, both[:1]), ("cuda12", both), (None, None), ("none", both[:1]), ("", None)):
        installed.clear()
        assert environment.main(asked) == 0
        synced = [[word for word in command if word in both] for command in installed if "sync" in command]
        assert synced == ([locks] if locks else []), f"after asking for {asked!r}"
    environment.main("cuda12")
    edit(environment.ROOT / "requirements.lock", "\nuv==", "\nuv==9.")
    installed.clear()
    assert environment.main() == 0
    assert any(both[1] in command for command in installed), "a later lock keeps the accelerator"
    assert environment.main("tpu") == 1
    assert "ACCELERATOR must be cuda12 or none, got 'tpu'." in capsys.readouterr().err


def test_what_a_gpu_needs_fits_the_lock_and_adds_to_it_alone(module):
    import tomllib

    digests = module("digests")
    plain, cuda = (digests.read_lock((ROOT / f"requirements{of}.lock").read_text()) for of in ("", "-cuda12"))
    assert not plain.keys() & cuda.keys()
    assert not [name for name in plain if name.startswith("nvidia")]
    version = plain["jax"][0].split("==")[1]
    assert cuda["jax-cuda12-plugin"][0].startswith(f"jax-cuda12-plugin=={version} ")
    assert all(name.startswith(("jax-cuda12-", "nvidia-")) for name in cuda)
    assert all("sys_platform == 'linux'" in pin for pin, _ in cuda.values())
    (asked,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["cuda12"]
    assert asked.split(";")[0] == f"jax-cuda12-plugin[with-cuda]=={version}"


@pytest.mark.parametrize("pip_works", [True, False])
def test_where_uv_fails_pip_installs_the_same_lock(environment, monkeypatch, capsys, pip_works):
    commands = []

    def run(*command, **options):
        commands.append(command)
        if "/dev/stdin" in command or not pip_works:
            raise subprocess.CalledProcessError(1, command, output="first line\nno uv for this machine\n")

    monkeypatch.setattr(environment, "run", run)
    assert environment.main() == (0 if pip_works else 1)
    said = capsys.readouterr().err
    assert "uv could not install the lock (no uv for this machine); pip tries" in said
    assert ("needs the package index. Call again to retry." in said) is not pip_works
    assert commands[1][:3] == (environment.PYTHON, "-m", "pip")
    assert {"--no-deps", "--require-hashes", "requirements.lock"} <= set(commands[1])
    assert environment.UNFINISHED.exists() is not pip_works


def executed(figure: str = "rise", pictures: int = 1, link: str = "first", sentence: bool = False):
    """An executed notebook as papermill leaves it."""
    new = nbformat.v4
    shown = {"image/png": "aGk=", "text/plain": "…"}
    output = new.new_output("display_data", shown, metadata={"eoslib": {"figure": figure}})
    said = [new.new_output("display_data", {"text/markdown": "It rises."})] if sentence else []
    noise = new.new_output("stream", name="stderr", text="/home/somebody/lib.py: a warning")
    cells = [
        new.new_markdown_cell(f"# Title\n[one]({link}.ipynb) and [two](absent.ipynb)"),
        new.new_code_cell('scale = "quick"', metadata={"tags": ["parameters"]}),
        new.new_code_cell('# Parameters\nscale = "test"', metadata={"tags": ["injected-parameters"]}),
        new.new_code_cell(
            "draw()  # once  # fmt: skip",
            outputs=[noise] + [output] * pictures + said,
            metadata={"tags": ["hide-input"]},
        ),
    ]
    return new.new_notebook(cells=cells, metadata={"papermill": {"duration": 1.5, "input_path": "/home/x.ipynb"}})


MADE = {"setting": ["toy--eta0.1--seed0"], "scale": "test", "seed": [0], "commit": "abc", "library_digest": "0123"}
MADE |= {"device": "A_CPU (R)", "threads": 2, "seconds": 125.0}
FIGURE = {
    "id": "rise",
    "notebook": "first",
    "caption": "**It** rises $x$.",
    "alt": "A line that rises.",
    "provenance": MADE,
}


def test_chapter_of_an_executed_notebook(module, tmp_path):
    chapters = module("chapters")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "toy--eta0.1--seed0.nc").write_bytes(b"run")
    source = executed()
    before = copy.deepcopy(source)
    notebook, runs, missing = chapters.chapter(source, "first", [FIGURE], tmp_path, {"first"})
    nbformat.validate(notebook)
    assert source == before, "the executed notebook itself is not changed"
    text, parameters, drawn, line = notebook.cells
    assert text.source == "# Title\n[one](first.ipynb) and two"
    assert missing == ["absent"]
    assert parameters.source == 'scale = "test"'
    assert "hide-input" in parameters.metadata["tags"]
    assert drawn.source == "draw()  # once", "words to the formatter are not for readers"
    assert drawn.metadata["mystnb"]["image"] == {"alt": "A line that rises."}
    assert drawn.metadata["mystnb"]["figure"] == {"caption": "**It** rises $x$.", "name": "fig-rise"}
    assert drawn.metadata["tags"] == ["hide-input"]
    assert "somebody" not in json.dumps(notebook)
    assert line.source.startswith(":::{div} provenance\n")
    for part in ("test scale", "seed 0", "A\\_CPU", "2 threads", "2 min 5 s", "commit abc", "library 0123"):
        assert part in line.source
    for target in ("rise.svg", "rise.png", "downloads/first.ipynb", "downloads/test/toy--eta0.1--seed0.nc"):
        assert f"{target})" in line.source
    assert [run.name for run in runs] == ["toy--eta0.1--seed0.nc"]
    assert notebook.metadata["papermill"] == {"duration": 1.5}


@pytest.mark.parametrize(
    ("notebook", "said"),
    [
        (executed(figure="unknown"), "first: a picture without a record .id 'unknown'."),
        (executed(pictures=2), "first: one cell shows 2 pictures"),
        (executed(sentence=True), "first: a cell shows the picture 'rise' and a sentence"),
    ],
)
def test_a_picture_without_words_is_no_chapter(module, tmp_path, notebook, said):
    chapters = module("chapters")
    with pytest.raises(chapters.ChapterError, match=said):
        chapters.chapter(notebook, "first", [FIGURE], tmp_path, {"first"})


def test_write_all_copies_what_is_offered(module, tmp_path):
    chapters = module("chapters")
    (tmp_path / "test" / "notebooks").mkdir(parents=True)
    (tmp_path / "test" / "toy--eta0.1--seed0.nc").write_bytes(b"run")
    (tmp_path / "test" / "figures.json").write_text(json.dumps([FIGURE]))
    for name in ("first", "first.failed", ".first.partial"):
        nbformat.write(executed(), tmp_path / "test" / "notebooks" / f"{name}.ipynb")
    target = tmp_path / "chapters"
    target.mkdir()
    (target / "old.ipynb").touch()
    assert chapters.write_all(tmp_path, "test", target) == ["first"]
    there = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()}
    assert there == {"first.ipynb", "downloads/first.ipynb", "downloads/test/toy--eta0.1--seed0.nc"}


LOCK = """
    alpha==1.0 \\
        --hash=sha256:01 \\
        --hash=sha256:02
        # via selfstab (pyproject.toml)
    beta==2.0 ; python_full_version < '3.12' \\
        --hash=sha256:03
        # via
        #   alpha
        #   other
    other==3.0
        # via thin

    # The following packages were excluded from the output:
    # thin
"""


def test_only_needed_pins_count(module):
    digests = module("digests")
    lock = digests.read_lock(textwrap.dedent(LOCK))
    assert digests.needed_by(["alpha"], lock) == ["alpha==1.0", "beta==2.0 ; python_full_version < '3.12'"]
    assert len(digests.needed_by(["Other"], lock)) == 2
    assert digests.needed_by(["thin"], lock) == digests.needed_by(["other"], lock), "thin itself has no pin"
    with pytest.raises(ValueError, match="pins alpha twice"):
        digests.read_lock("alpha==1.0\nalpha==2.0\n")
    for wrong in ("alpha>=1.0\n", "alpha==1.0 \\\n    --find-links=there\n", "-e ./alpha\n"):
        with pytest.raises(ValueError, match="neither a pin nor a comment"):
            digests.read_lock(wrong)


def test_versions_of_the_library_count_and_those_of_the_book_do_not(module, tmp_path):
    digests = module("digests")
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    here = digests.versions(tmp_path)
    edit(tmp_path / "requirements.lock", "\nsphinx-proof==", "\nsphinx-proof==9.")
    edit(tmp_path / "requirements.lock", "\nruff==", "\nruff==9.")
    assert digests.versions(tmp_path) == here
    assert digests.versions(tmp_path, "book") != digests.versions(ROOT, "book")
    edit(tmp_path / "requirements.lock", "\nscipy==", "\nscipy==9.")  # asked for by jax
    assert digests.versions(tmp_path) != here


def test_modules_behind_a_notebook(module):
    """A page's code counts; what computes runs does not, for those come to a notebook as files; nor do tables."""
    behind = module("digests").modules_behind
    drawing = behind("from selfstab.page import Page")
    assert {"selfstab.page.page", "selfstab.page.style", "selfstab.records.words", "selfstab.runs.compute"} <= set(
        drawing
    )
    assert not {name for name in drawing if name.startswith("eoslib")} | {"selfstab.settings"} & set(drawing)
    reduced = behind("from selfstab.theory import reduced")
    assert {"selfstab.theory.reduced", "eoslib.geometry", "eoslib.objective"} <= set(reduced)
    assert behind("import selfstab.theory.reduced as r") == reduced
    assert "eoslib.eigen" in behind("from eoslib import sharpness")
    assert behind("import numpy") == []


@pytest.mark.parametrize("name", ["chapters", "snakemake_logger_plugin_plain"])
def test_examples_in_docstrings(module, name):
    outcome = doctest.testmod(module(name))
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_pdf_has_outline_metadata_and_links_inside(module, tmp_path):
    """Three small pages: a link to another page leads inside the PDF, one to a file goes, one to the world stays."""
    from pypdf import PdfReader

    pdf = module("pdf")
    toc = {"root": "intro", "parts": [{"caption": "Part", "chapters": [{"file": "one"}, {"file": "two"}]}]}
    assert pdf.pages(toc) == [(None, "intro"), ("Part", "one"), (None, "two")]
    try:
        pdf.chromium()
    except FileNotFoundError as absent:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"THE PDF WAS NOT CHECKED: {absent}")
    links = '<a href="two.html#x">in</a> <a href="data.nc">file</a> <a href="https://example.org/">out</a>'
    for name in ("intro", "one", "two"):
        (tmp_path / f"{name}.html").write_text(f"<html><body><main><h1>Page {name}</h1>{links}</main></body></html>")
    target = tmp_path / "book.pdf"
    # In a thread of its own: another test of this worker may hold a browser, whose loop would be in the way.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(pdf.write, tmp_path, toc, "A title", "An author", target).result() == 3
    printed = PdfReader(target)
    assert printed.metadata.title == "A title"
    assert printed.metadata.author == "An author"
    intro, part, chapters = printed.outline
    assert [entry.title for entry in (intro, part, *chapters)] == ["Page intro", "Part", "Page one", "Page two"]
    assert [printed.get_destination_page_number(entry) for entry in (intro, part, *chapters)] == [0, 1, 1, 2]
    for page in printed.pages[:2]:
        inside, outside = (reference.get_object() for reference in page["/Annots"])
        assert inside["/Dest"][0].get_object() == printed.pages[2]
        assert outside["/A"]["/URI"] == "https://example.org/"
    assert str(tmp_path).encode() not in target.read_bytes()
    (tmp_path / "two.html").unlink()
    with pytest.raises(FileNotFoundError, match=r"two\.html is not there; call make book first"):
        pdf.write(tmp_path, toc, "A title", "An author", target)
