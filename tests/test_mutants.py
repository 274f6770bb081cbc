"""The mutants: that their texts are still there, what counts as noticed, and a whole examination of a toy project."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap

import pytest
from test_workflow import PAGE, PATIENCE, ROOT, module, project  # noqa: F401

from selfstab.records import store
from selfstab.records.claims import UNTESTED, holds

TABLE = """
    [unbroken]
    breaks = "The rate of the second chapter is another."
    edits = [["selfstab/chapters.py", "(0.3,)", "(0.4,)"]]

    [factor]
    chapters = ["first"]
    breaks = "The factor is three."
    edits = [["eoslib/numeric.py", "FACTOR = 2", "FACTOR = 3"]]

    [zero]
    chapters = ["first"]
    breaks = "There is no factor."
    edits = [["eoslib/numeric.py", "FACTOR = 2", "FACTOR_ = 2"]]

    [same]
    chapters = ["first"]
    breaks = "Two is written otherwise."
    edits = [["eoslib/numeric.py", "FACTOR = 2", "FACTOR = 1 + 1"]]

    [elsewhere]
    chapters = ["first"]
    breaks = "What no chapter is made of."
    edits = [["selfstab/other.py", "OTHER = 1", "OTHER = 2"]]
"""


@pytest.fixture
def mutants(module):  # noqa: F811
    return module("mutants")


def test_the_mutants_fit_the_source(mutants):
    """Each text occurs once, another stands in its place, and the file is Python still."""
    table = mutants.mutants()
    assert len(table) > 12
    for name, mutant in table.items():
        assert set(mutant) - {"chapters"} == {"breaks", "edits"}, name
        for file, text in mutants.edited(ROOT, mutant).items():
            before = (ROOT / file).read_text(encoding="utf-8")
            assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(before)), name
        notebooks = [file.stem for file in (ROOT / "notebooks").glob("*.ipynb")]
        assert mutants.concerned(ROOT, mutant, notebooks, "quick") or name == mutants.UNBROKEN


def test_the_record_is_of_these_mutants_and_a_claim_noticed_each(mutants):
    record = store.mutants(ROOT / "results")
    assert record is not None, "make mutants makes it"
    entries = {entry["name"]: entry for entry in record["mutants"]}
    assert {name: entry["breaks"] for name, entry in entries.items()} == {
        name: mutant["breaks"] for name, mutant in mutants.mutants().items() if name != mutants.UNBROKEN
    }
    assert not [name for name, entry in entries.items() if not entry["red"]]
    known = {claim["id"]: claim for claim in record["claims"]}
    assert all(holds(known[id]) for entry in entries.values() for id in entry["red"])


def test_what_is_not_examined_again_stays_and_tells_its_code(mutants):
    """Unless the table has another mutant of its name, or none; claims are those of the last look at their chapter."""
    asked = mutants.argparse.Namespace(scale="quick", seed=0)
    every = {name: {"breaks": f"{name} is wrong."} for name in ("a", "b", "c", "d")}
    entry = lambda name, red: {"name": name, "breaks": f"{name} is wrong.", "red": red, "seconds": 1.0}  # noqa: E731
    claim = lambda chapter, measured: {"id": f"of-{chapter}", "notebook": chapter, "measured": measured}  # noqa: E731
    former = {"library_digest": "old", "date": "then", "claims": [claim("01", 0), claim("02", 0)]}
    changed = entry("d", []) | {"breaks": "d was wrong in another way."}
    former["mutants"] = [entry("a", ["of-01"]), entry("b", []), changed, entry("gone", [])]
    now = mutants.record(
        asked, every, {"breaks": ""}, [claim("02", 1)], [entry("c", []), entry("b", ["of-02"])], former
    )
    assert [(each["name"], each["red"]) for each in now["mutants"]] == [("a", ["of-01"]), ("b", ["of-02"]), ("c", [])]
    assert [each["library_digest"] == "old" for each in now["mutants"]] == [True, False, False]
    assert now["mutants"][1]["library_digest"] == now["library_digest"]
    assert now["claims"] == [claim("01", 0), claim("02", 1)]
    assert now["seconds"] == 3
    again = mutants.record(asked, every, {"breaks": ""}, [], [], now)  # what tells its code itself keeps it
    assert again["mutants"] == now["mutants"]


def test_what_counts_as_noticed(mutants):
    """A claim that holds on the unbroken code, and does not here, or is no longer made; not an untested one."""
    verdicts = {"a": "holds", "b": "holds", "c": UNTESTED, "d": "does not hold", "e": "holds", "f": "holds"}
    reference = [{"id": id, "verdict": verdict} for id, verdict in verdicts.items()]
    changed = verdicts | {"a": "does not hold", "b": UNTESTED, "c": "does not hold", "d": "holds"}
    assert mutants.red(reference, reference) == []
    found = [{"id": id, "verdict": verdict} for id, verdict in changed.items() if id != "e"]
    assert mutants.red(reference, found) == ["a", "e"]


def test_a_text_that_is_not_there_once_is_refused(mutants, tmp_path):
    (tmp_path / "a.py").write_text("x = 1\ny = 1\n")
    assert mutants.edited(tmp_path, {"edits": [["a.py", "x = 1", "x = 2"], ["a.py", "x = 2", "x = 3"]]}) == {
        "a.py": "x = 3\ny = 1\n"
    }
    for text, count in (("= 1", 2), ("z", 0)):
        with pytest.raises(ValueError, match=rf"a\.py holds '{text}' {count} times"):
            mutants.edited(tmp_path, {"edits": [["a.py", text, ""]]})


def test_an_examination(project):  # noqa: F811
    """A wrong number turns the claim red, a crash is told in words, what is equal survives; all is done once."""
    (project / "workflow" / "mutants.toml").write_text(textwrap.dedent(TABLE))
    (project / "selfstab" / "other.py").write_text("OTHER = 1\n")
    judging = textwrap.dedent(PAGE).replace('"verdict": "holds"', '"verdict": VERDICT, "sentence": "It is .2."')
    assert judging.count("VERDICT") == 1
    judging = judging.replace("VERDICT", '"holds" if abs(values[0] - 0.2) < 1e-9 else "does not hold"')
    (project / "selfstab" / "page.py").write_text(
        judging.replace(
            "    values = [",
            "    from selfstab.runs import compute\n"
            "    for run in chapters.RUNS[notebook]:\n"
            '        compute.main(["--name", "toy", "--scale", scale, "--learning-rate", str(run.rate)])\n'
            "    values = [",
        )
    )
    source = project / "selfstab" / "runs" / "compute.py"
    source.write_text(source.read_text().replace('"--seed", type=int', '"--seed", type=int, default=0'))

    def examine(*words):
        command = [sys.executable, "workflow/mutants.py", "--scale", "test", *words]
        environment = {name: value for name, value in os.environ.items() if name != "EOSLIB_RESULTS"}
        environment |= {"PYTHONPATH": str(project)}
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=PATIENCE)

    told = examine()
    assert told.returncode == 1, told.stderr
    lines = told.stdout.splitlines()
    assert lines, told.stderr
    assert lines[0] == "unbroken: 1 of 1 claims hold at test scale"
    assert "1 of 1 claims turn red: first" in lines[1]
    assert "first fails: AttributeError: module 'eoslib.numeric' has no attribute 'FACTOR'" in lines[2]
    assert lines[3].endswith("SURVIVES")
    assert lines[4] == "elsewhere (0 s): SURVIVES"
    assert lines[5] == "1 of 4 mutants are noticed by a claim. zero same elsewhere"
    assert not (project / "results" / "mutants.json").exists(), "that is for the quick scale"
    kept = project / ".cache" / "mutants" / "test" / "factor" / "done" / "first.json"
    assert not holds(json.loads(kept.read_text())["claims"][0])
    kept.write_text(kept.read_text().replace("does not hold", "holds"))
    again = examine("--only", "factor")
    assert "factor" in again.stdout
    assert "SURVIVES" in again.stdout, "what is kept under the same key is not examined again"
    (project / "workflow" / "mutants.toml").write_text(
        '[unbroken]\nbreaks = ""\nedits = []\n[gone]\nbreaks = "x"\nchapters = ["first"]\n'
        'edits = [["eoslib/numeric.py", "y", "z"]]\n'
    )
    refused = examine()
    assert refused.returncode == 1
    assert "gone: eoslib/numeric.py holds 'y' 0 times" in refused.stderr
