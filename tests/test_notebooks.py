"""Every notebook runs by papermill at test scale, on the data in the repository, and keeps to the schema."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from eoslib import reporting, settings

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """One results folder for all workers: a run that two notebooks want is computed once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "results"


def test_every_notebook_with_runs_exists():
    assert set(settings.NOTEBOOK_RUNS) <= {file.stem for file in NOTEBOOKS}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_runs_and_records(notebook, shared, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "EOSLIB_DATA"}
    environment |= {"EOSLIB_RESULTS": str(shared), "JAX_COMPILATION_CACHE_DIR": str(shared / "compiled")}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "-p", "scale", "test", str(notebook)]
    done = subprocess.run([*command, str(tmp_path / "out.ipynb")], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((shared / "test" / "records" / f"{notebook.stem}.json").read_text())
    reporting.check_record(record)
    assert record["claims"]
    for claim in record["claims"]:
        measured = float("nan") if claim["measured"] is None else claim["measured"]
        assert claim["verdict"] == reporting.verdict(
            claim["relation"], claim["predicted"], measured, claim["tolerance"]
        )
    for figure in record["figures"]:
        for kind in ("svg", "png"):
            assert (shared / "test" / figure[kind]).stat().st_size > 1000
        assert figure["provenance"]["scale"] == "test"
    shown = json.loads((tmp_path / "out.ipynb").read_text())
    outputs = [output for cell in shown["cells"] for output in cell.get("outputs", ())]
    marked = [output["metadata"]["eoslib"]["figure"] for output in outputs if "eoslib" in output.get("metadata", {})]
    assert marked == [figure["id"] for figure in record["figures"]]
