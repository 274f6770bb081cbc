"""The frame keeps its promises: files in step, one version of each package, imports in one direction."""

from __future__ import annotations

import ast
import importlib.util
import json
import pathlib
import re
import subprocess
import tomllib

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "eoslib"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LIBRARY_PROJECT = tomllib.loads((LIBRARY / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def digests():
    spec = importlib.util.spec_from_file_location("digests", ROOT / "workflow" / "digests.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PINS = digests().read_lock(LOCK)


def pin(name: str) -> str:
    return re.match(r"[^=]+==([^ ;]+)", PINS[digests().canonical(name)][0]).group(1)


@pytest.mark.parametrize("name", ["jax", "jaxlib", "flax", "optax", "numpy"])
def test_one_version_for_every_python(name):
    lines = re.findall(rf"^{name}(?:\[.*\])?==.*$", LOCK, re.MULTILINE)
    assert len(lines) == 1
    assert ";" not in lines[0], "a marker would leave some Python without it"


def test_lock_holds_what_the_two_projects_ask_for():
    from packaging.requirements import Requirement

    total = 0
    for table in (PROJECT["project"], LIBRARY_PROJECT["project"]):
        lines = table["dependencies"] + [line for extra in table["optional-dependencies"].values() for line in extra]
        asked = [requirement for requirement in map(Requirement, lines) if requirement.name != "eoslib"]
        for requirement in asked:
            assert requirement.specifier.contains(pin(requirement.name)), requirement
        direct = {name for name, (_, parents) in PINS.items() if table["name"] in parents}
        assert direct == {digests().canonical(requirement.name) for requirement in asked}
        total += len(asked)
    assert total > 30


def test_every_file_of_the_lock_has_its_hash():
    for block in re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]:
        assert re.match(r".*==[^ ]+( ; .*)? \\\n    --hash=sha256:[0-9a-f]{64}\b", block), block.splitlines()[0]


def test_lock_names_no_place():
    assert not re.search(r"https?://|file:|git\+|@ |--(extra-)?index-url|--find-links|(^|\s)/\w", LOCK)


def test_python_versions_agree():
    requires = PROJECT["project"]["requires-python"]
    assert requires == ">=3.11,<3.14"
    assert requires.startswith(LIBRARY_PROJECT["project"]["requires-python"])
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = next(line for line in environment["dependencies"] if str(line).startswith("python="))
    workflows = [yaml.safe_load(file.read_text()) for file in (ROOT / ".github" / "workflows").glob("*.yml")]
    tested = {conda.removeprefix("python=")}
    for job in (job for workflow in workflows for job in workflow["jobs"].values()):
        tested |= set(job.get("strategy", {}).get("matrix", {}).get("python", []))
    assert tested == {"3.11", "3.12", "3.13"}


def test_environment_installs_from_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["project"]["name"]
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-r requirements.lock"], "a lock with hashes allows nothing without beside it"
    after = (ROOT / "postBuild").read_text()
    assert "pip install --no-deps --no-build-isolation -e ./eoslib -e ." in after
    assert (ROOT / "postBuild").stat().st_mode & 0o111, "Binder executes it"
    named = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert {name.split("=")[0] for name in named} == {"python", "pip"}, "every other package comes from the lock"


def test_citation_is_valid():
    """Keys and values that the Citation File Format 1.2.0 requires, and agreement with the package."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert cited.keys() >= {"message", "title", "authors", "version", "license", "references"}
    assert cited["version"] == PROJECT["project"]["version"]
    assert cited["license"] == PROJECT["project"]["license"]
    assert cited["authors"] == PROJECT["project"]["authors"] == [{"name": "the eoslib contributors"}]
    (paper,) = cited["references"]
    assert paper.keys() >= {"authors", "title", "type"}
    assert paper["title"] == "Self-Stabilization: The Implicit Bias of Gradient Descent at the Edge of Stability"
    assert [author["family-names"] for author in paper["authors"]] == ["Damian", "Nichani", "Lee"]
    assert paper["year"] == 2023
    assert all(entry.keys() == {"type", "value"} for entry in paper["identifiers"])


def test_the_two_distributions_agree():
    """One version, licence and author; the companion asks for this very library; the changelog speaks of it."""
    library, companion = LIBRARY_PROJECT["project"], PROJECT["project"]
    for field in ("version", "license", "authors"):
        assert library[field] == companion[field]
    assert f"eoslib[track]=={library['version']}" in companion["dependencies"]
    assert (LIBRARY / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert f"## {companion['version']}" in (ROOT / "CHANGELOG.md").read_text()


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_are_committed_bare(file):
    """No output, no counter, no place; one cell of parameters with the scale and the seed that the graph injects."""
    notebook = json.loads(file.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    (parameters,) = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    names = [
        node.targets[0].id for node in ast.parse("".join(parameters["source"])).body if isinstance(node, ast.Assign)
    ]
    assert names == ["scale", "seed"]
    assert not re.search(r"/home/|/root|/tmp/|/Users/", file.read_text())


def tracked() -> list[pathlib.Path]:
    told = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if told.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in told.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_third_party_script_and_no_generated_file_is_committed():
    files = tracked()
    assert len(files) > 20
    names = {str(file.relative_to(ROOT)) for file in files}
    generated = r"(^|/)(_build|chapters|_generated|vendor|__pycache__|\.snakemake|\.venv)/|^results/(quick|test)/"
    assert not [name for name in names if re.search(generated, name)]
    for file in files:
        if file.suffix == ".js":
            assert file.stat().st_size < 60_000, f"{file.name} looks like a library"
            assert not re.search(r"@license|sourceMappingURL|\(c\) \d{4}", file.read_text()), file.name
    assert sum(file.stat().st_size for file in (ROOT / "selfstab" / "data" / "_subset").iterdir()) < 5_000_000


def test_ci_runs_the_targets_of_the_readme():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in ("make book", "make test"):
        assert target in readme
        assert f"\n{target}\n" in ci
    assert ci.rstrip().endswith("make test"), "its closing line ends the log"
    assert "set -euo pipefail" in ci
    assert set(re.findall(r"`make (\w+)", readme)) <= targets | {"book", "figures"}
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_what_the_readme_says_of_costs_is_what_was_measured():
    found = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    said = " ".join((ROOT / "README.md").read_text().split())
    whole, constrained = (
        f"{found[f'{step}_step_gradients']:.1f} gradients, {found[f'{step}_step_ratio']:.1f} times less"
        for step in ("tracked", "constrained")
    )
    assert f"{found['parameters']:,} parameters" in said
    assert whole in said
    assert constrained in said


CODE = ("eoslib", "selfstab", "workflow", "book/_ext", "benchmarks")


def test_every_read_and_write_names_its_encoding():
    """No locale decides; tests themselves run in UTF-8 mode, which make asks for."""
    assert "\nexport PYTHONUTF8 = 1\n" in (ROOT / "Makefile").read_text()
    seen = 0
    for file in (file for folder in CODE for file in (ROOT / folder).rglob("*.py")):
        for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
            if (name := ast.unparse(call.func).rpartition(".")[2]) in ("read_text", "write_text", "open"):
                words = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                binary = name == "open" and "b" in "".join(map(ast.unparse, call.args[1:]))
                assert binary or words.get("encoding") == "'utf-8'", f"{file}:{call.lineno}"
                seen += 1
    assert seen > 30
