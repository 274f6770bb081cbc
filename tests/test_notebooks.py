"""Every notebook runs by papermill at test scale, on the data in the repository, and keeps to the schema."""

import ast
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.request

import papermill
import pytest
from jupyter_client import KernelManager
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from test_claims import CLAIMS

from selfstab import chapters
from selfstab.records import store
from selfstab.records.claims import UNTESTED, verdict

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
#: Whose claims the recorded runs can judge.
JUDGED = {"01", "02", "03", "04", "05", "06", "07", "08", "10", "11"}

#: The same cell in every notebook.
LAUNCH = next(
    "".join(cell["source"])
    for cell in json.loads(NOTEBOOKS[0].read_text())["cells"]
    if "remove-cell" in cell["metadata"].get("tags", ())
)
SESSIONS = "http://192.0.2.1:9000/api/sessions"


def test_every_notebook_with_runs_exists():
    assert set(chapters.RUNS) <= {file.stem for file in NOTEBOOKS}


def cells(notebook: pathlib.Path, kind: str) -> list[dict]:
    found = json.loads(notebook.read_text())["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found if cell["cell_type"] == kind]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_reads_as_a_page(notebook):
    """It opens with its claim, its first code installs the library where that is missing, and it states its limits."""
    assert "**Claim.**" in cells(notebook, "markdown")[0]["source"]
    first, *others = cells(notebook, "code")
    assert first["source"] == LAUNCH
    assert first["metadata"]["tags"] == ["remove-cell"]
    assert not any(cell["source"] == LAUNCH for cell in others)
    assert any("## What would break this" in cell["source"] for cell in cells(notebook, "markdown"))
    assert others[-1]["source"].strip().endswith("page.close()")


def computing(notebook: pathlib.Path) -> int:
    """How many visible cells call the library, or something that it made."""
    count, names = 0, {"experiment"}
    for cell in cells(notebook, "code"):
        tree = ast.parse("\n".join(line for line in cell["source"].splitlines() if not line.startswith("%")))
        calls = False
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("eoslib"):
                names |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.Import):
                names |= {alias.asname or alias.name for alias in node.names if alias.name.startswith("eoslib")}
        for statement in tree.body:
            calling = [node.func for node in ast.walk(statement) if isinstance(node, ast.Call)]
            if {ast.unparse(function).split(".")[0] for function in calling} & names:
                calls = True
                targets = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
                names |= {node.id for node in targets if isinstance(node.ctx, ast.Store)}
                names |= {statement.name} if isinstance(statement, ast.FunctionDef) else set()
        count += calls and not cell["metadata"].get("tags")
    return count


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_chapter_derives_and_computes_in_the_open(notebook):
    """It can be read as a text of its own: words, displayed equations, and visible cells that call the library."""
    text = "\n\n".join(cell["source"] for cell in cells(notebook, "markdown"))
    equations = re.findall(r"\$\$.+?\$\$", text, flags=re.DOTALL)
    words = re.sub(r"\$\$.+?\$\$|```.+?```", "", text, flags=re.DOTALL).split()
    assert len(words) >= 900
    assert len(equations) >= 5
    assert computing(notebook) >= 3


def asked_for(code: str) -> set[str]:
    """Names of the runs that a cell asks for by ``page.runs``, each by a constant or as one of a spread series."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    calls = [call for call in calls if ast.unparse(call.func) == "page.runs"]
    given = "".join(f"{ast.unparse(argument)}, " for call in calls for argument in call.args)
    return set(eval(f"({given})", {}))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_asks_for_its_runs_where_a_reader_sees_it(notebook):
    """One open cell asks for the runs of the table that the task graph reads; nothing else trains them."""
    asking = [cell for cell in cells(notebook, "code") if "page.runs(" in cell["source"]]
    listed = {run.name for run in chapters.RUNS.get(notebook.stem, ())}
    assert len(asking) == bool(listed)
    for cell in asking:
        assert asked_for(cell["source"]) == listed
        assert not cell["metadata"].get("tags")
        assert not cell["metadata"].get("jupyter")
    names = {
        getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", None)
        for cell in cells(notebook, "code")
        for node in ast.walk(ast.parse(cell["source"]))
    }
    assert not names & {"compute", "load_or_run"}


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """``launched(found=None)``: the cell that installs, run in an empty folder; what it asked pip to install."""
    monkeypatch.chdir(tmp_path)
    for name in ("EOSLIB_REPOSITORY", "COLAB_JUPYTER_IP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: asked.extend(command[5:]))

    def run(found=None):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
        exec(LAUNCH, {})
        return asked

    return run


def both(address: str) -> list[str]:
    """What pip is asked for where both packages come from a repository."""
    return [f"eoslib @ {address}#subdirectory=eoslib", f"selfstab[theory] @ {address}"]


def test_launch_is_short():
    assert len(LAUNCH.splitlines()) <= 6


def test_launch_does_nothing_where_the_library_is(launched):
    assert launched(found=object()) == []


@pytest.mark.parametrize("place", ["notebooks", "."])
def test_launch_from_a_checkout(place, launched, monkeypatch, tmp_path):
    """It is installed editable, and found at once: Python reads what an editable install leaves when it starts."""
    (tmp_path / "selfstab").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / place)
    assert launched() == ["-e", f"{tmp_path}/eoslib", "-e", f"{tmp_path}[theory]"]
    assert str(tmp_path) in sys.path


def test_launch_on_colab(launched, monkeypatch):
    """Colab tells its kernel where the notebook was opened from."""
    opened = "fileId=https%3A%2F%2Fgithub.com%2Fsomebody%2Fa-book%2Fblob%2Fnext%2Fstep%2Fnotebooks%2F01_x.ipynb"
    session = {"name": "01_x.ipynb", "path": opened, "notebook": {"name": "01_x.ipynb", "path": opened}}
    answer = io.BytesIO(json.dumps([session]).encode())
    monkeypatch.setenv("COLAB_JUPYTER_IP", "192.0.2.1")
    monkeypatch.setattr(urllib.request, "urlopen", lambda address, timeout: {SESSIONS: answer}[address])
    assert launched() == both("git+https://github.com/somebody/a-book@next/step")


def test_launch_on_colab_from_elsewhere_than_a_repository(launched, monkeypatch):
    answer = io.BytesIO(json.dumps([{"name": "01_x.ipynb", "path": "fileId=1aB"}]).encode())
    monkeypatch.setenv("COLAB_JUPYTER_IP", "192.0.2.1")
    monkeypatch.setattr(urllib.request, "urlopen", lambda address, timeout: {SESSIONS: answer}[address])
    with pytest.raises(SystemExit, match=r"selfstab is not installed.*set EOSLIB_REPOSITORY"):
        launched()


def test_launch_from_a_named_repository_or_not_at_all(launched, monkeypatch):
    with pytest.raises(SystemExit, match=r"selfstab is not installed.*set EOSLIB_REPOSITORY"):
        launched()
    monkeypatch.setenv("EOSLIB_REPOSITORY", "git+https://example.org/a-book")
    assert launched() == both("git+https://example.org/a-book")


class KeptKernel(NBClientEngine):
    """papermill in one kernel for all notebooks, emptied before each: what one compiled, the next has."""

    kernel: KernelManager

    @classmethod
    def execute_managed_notebook(cls, notebook, kernel_name, **options):
        client = cls.kernel.client()
        client.start_channels()
        client.wait_for_ready(timeout=600)
        assert client.execute_interactive("%reset -f", timeout=600)["content"]["status"] == "ok"
        client.stop_channels()
        client = PapermillNotebookClient(notebook, km=cls.kernel)
        try:
            return client.execute()
        finally:
            client.kc.stop_channels()


@pytest.fixture(scope="module")
def results(shared):
    """Folder that the notebooks' runs, records and figures go to, a kernel and papermill's engine ready for them."""
    folder = shared / "results"
    shutil.copytree(NOTEBOOKS[0].parents[1] / "results" / "paper", folder / "paper")
    environment = {name: value for name, value in os.environ.items() if name != "EOSLIB_DATA"}
    environment |= {"EOSLIB_RESULTS": str(folder)}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # at test scale most of the time is the compiler's
    KeptKernel.kernel = KernelManager(kernel_name="python3")
    KeptKernel.kernel.start_kernel(env=environment, cwd=str(NOTEBOOKS[0].parent))
    papermill_engines.register("kept", KeptKernel)
    yield folder
    KeptKernel.kernel.shutdown_kernel(now=True)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_runs_and_records(notebook, results, tmp_path):
    """A run that two notebooks want is computed once."""
    options = {"engine_name": "kept", "kernel_name": "python3", "progress_bar": False}
    papermill.execute_notebook(notebook, tmp_path / "out.ipynb", {"scale": "test"}, **options)
    record = json.loads((results / "test" / "records" / f"{notebook.stem}.json").read_text())
    store.check_record(record)
    assert record["claims"]
    for claim in record["claims"]:
        measured = float("nan") if claim["measured"] is None else claim["measured"]
        by_rule = verdict(claim["relation"], claim["predicted"], measured, claim["tolerance"])
        passed = by_rule == "holds" and any(null["verdict"] != "does not hold" for null in claim["nulls"])
        assert claim["verdict"] == (UNTESTED if passed else by_rule)
        for null in claim["nulls"]:
            if null["measured"] is None:  # infinite, hence failed, or never computed
                assert null["verdict"] in (UNTESTED, "does not hold")
                continue
            by_rule = verdict(claim["relation"], claim["predicted"], null["measured"], claim["tolerance"])
            assert null["verdict"] == by_rule
    recorded = [claim | claim["recorded"] for claim in record["claims"] if "recorded" in claim]
    assert bool(recorded) == (notebook.stem[:2] in JUDGED)
    for claim in recorded:
        measured = float("nan") if claim["measured"] is None else claim["measured"]
        values = claim["relation"], claim["predicted"], measured, claim["tolerance"]
        assert claim["verdict"] in (verdict(*values), UNTESTED)
    holding = {claim["id"] for claim in record["claims"] if claim["verdict"] == "holds"}
    assert holding >= CLAIMS.get(notebook.stem, set())
    for figure in record["figures"]:
        for kind in store.FIGURE_FILES:
            pictures = kind == "csv" and figure["id"] == "subspaces-images"  # of samples, which have no points
            assert (results / "test" / figure[kind]).stat().st_size > (0 if pictures else 200)
        assert figure["provenance"]["scale"] == ("paper" if figure["id"].endswith("-paper") else "test")
    shown = json.loads((tmp_path / "out.ipynb").read_text())
    outputs = [output for cell in shown["cells"] for output in cell.get("outputs", ())]
    marked = [output["metadata"]["eoslib"]["figure"] for output in outputs if "eoslib" in output.get("metadata", {})]
    assert marked == [figure["id"] for figure in record["figures"]]
