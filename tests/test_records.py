"""What is recorded: the schema of claims and figures, the rule that judges, the wording, and the files."""

import doctest
import json
import os
import shutil
import subprocess
import sys
import types

import pytest

from selfstab.records import claims, paths, store, words

PROVENANCE = dict.fromkeys(store.PROVENANCE_FIELDS, "?") | {
    "setting": ["a", "b"], "scale": "quick, paper", "seed": [0, 1], "device": "a machine", "threads": "1",
    "seconds": 125.0, "commit": "0123456789ab-dirty", "library_digest": "cdef",
}  # fmt: skip
FIGURE = dict.fromkeys(store.FIGURE_FIELDS, "?") | {"id": "rise", "notebook": "01_x", "provenance": PROVENANCE}
CLAIM = dict.fromkeys(claims.CLAIM_FIELDS, "?") | {"id": "one", "notebook": "01_x"}


def record(notebook="01_x", claims=(CLAIM,), figures=(FIGURE,)):
    return {"notebook": notebook, "claims": list(claims), "figures": list(figures)}


def test_records_need_no_heavy_package():
    """The book's extensions and the workflow read records without paying for JAX."""
    code = """
import sys
from selfstab.records import claims, paths, store, words
sys.exit(bool({"jax", "matplotlib", "xarray", "eoslib"} & sys.modules.keys()))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_examples_in_docstrings():
    assert doctest.testmod(words) == (0, 14)


@pytest.mark.parametrize(
    ("relation", "measured", "expected"),
    [
        ("equals", 1.1, "holds"),
        ("equals", 1.3, "does not hold"),
        ("equals", float("nan"), "does not hold"),
        ("at most", -5.0, "holds"),
        ("at most", 1.3, "does not hold"),
        ("at least", 0.9, "holds"),
        ("at least", 0.7, "does not hold"),
    ],
)
def test_verdict(relation, measured, expected):
    assert claims.verdict(relation, 1.0, measured, 0.2) == expected
    judged = claims.judge(relation, 1, measured, float("inf"), 0.2)
    assert judged["verdict"] == expected
    assert judged["spread"] is None, "JSON has no infinity"
    assert json.loads(json.dumps(judged, allow_nan=False)) == judged


def test_median_and_range_of_several_runs():
    """Kept where there are several; NaN is no value, an infinite one is beyond what JSON has."""
    judged = claims.judge("at most", 0.0, 3.0, 9.0, 5.0, (3.0, 1.0, float("nan"), 1.5))
    assert judged["each"] == {"count": 3, "least": 1.0, "median": 1.5, "most": 3.0}
    assert judged["spread"] == 1.0
    assert claims.judge("at most", 0.0, 3.0, 0.0, 5.0, (1.0, float("inf")))["each"]["most"] is None
    assert "each" not in claims.judge("at most", 0.0, 3.0, 9.0, 5.0, [3.0, float("nan")])


def test_verdict_wants_sense():
    with pytest.raises(ValueError, match="relation must be one of"):
        claims.verdict("about", 1.0, 1.0, 0.1)
    with pytest.raises(ValueError, match="tolerance must be finite"):
        claims.verdict("equals", 1.0, 1.0, float("inf"))


def test_provenance_in_one_line():
    line = "quick, paper scale · seed 0, 1 · a machine, 1 thread · 2 min 5 s of computing · commit 012345678"
    assert words.provenance_line(PROVENANCE) == line
    assert words.provenance_line(PROVENANCE, full=True) == f"{line}9ab-dirty · library cdef"


def test_a_caption_says_how_runs_were_recorded():
    def run(steps, seconds, threads=2):
        attributes = {"scale": "paper", "seconds": seconds, "device": "a machine", "threads": threads}
        return types.SimpleNamespace(sizes={"t": steps}, attrs=attributes)

    note = words.recording_note
    assert note(run(1200, 90.0)) == "Recorded: 1,200 steps, 2 minutes on a machine (2 cores)."
    several = "3 runs recorded: 50 to 1,200 steps each, 6 minutes in all on a machine (2 cores)."
    assert note(run(1200, 90.0), run(50, 30.0), run(600, 240.0)) == several
    assert ": 50 steps each, 1 minute in all" in note(run(50, 30.0), run(50, 30.0))
    assert "(1 or 2 cores)" in note(run(50, 30.0), run(50, 30.0, threads=1))
    assert "(1 core)" in note(run(50, 30.0, threads=1))
    assert note(run(50, 30.0), pilots=1).endswith("(2 cores). A pilot, of less than two cycles.")
    assert note(*[run(50, 30.0)] * 3, pilots=1).endswith(" 1 of them is a pilot, of less than two cycles.")
    assert note(*[run(50, 30.0)] * 3, pilots=2).endswith(" 2 of them are pilots, of less than two cycles.")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (-2.5, "−2.5"), (1234567.0, "1.235 × 10⁶"), (2e-7, "2 × 10⁻⁷"), (3, "3"), (None, "–")],
)
def test_numbers_as_text(value, text):
    assert words.as_text(value) == text


def test_schema_is_checked():
    store.check_record(record())
    with pytest.raises(store.RecordError, match=r"01_x: claims 'a' lacks notebook, sentence"):
        store.check_record(record(claims=[{"id": "a"}]))
    short = FIGURE | {"provenance": {name: PROVENANCE[name] for name in PROVENANCE if name != "threads"}}
    with pytest.raises(store.RecordError, match=r"01_x: provenance of 'rise' lacks threads"):
        store.check_record(record(figures=[short]))


def test_records_are_gathered_and_loaded(tmp_path, monkeypatch):
    """In the order of the notebooks' names; an id serves once."""
    monkeypatch.setenv("EOSLIB_RESULTS", str(tmp_path))
    assert paths.results_root() == tmp_path
    other = CLAIM | {"id": "two", "notebook": "02_y"}
    store.write_json(tmp_path / "test" / "records" / "02_y.json", record("02_y", [other], []))
    store.write_json(tmp_path / "test" / "records" / "01_x.json", record())
    assert store.collect("test") == ([CLAIM, other], [FIGURE])
    monkeypatch.setenv("EOSLIB_BOOK_SCALE", "test")
    loaded = store.load()
    assert (loaded.scale, loaded.claims, loaded.figures) == ("test", [CLAIM, other], [FIGURE])
    assert not list(tmp_path.rglob("*.tmp"))
    store.write_json(tmp_path / "test" / "records" / "02_y.json", record("02_y", [CLAIM], []))
    with pytest.raises(store.RecordError, match="ids used by two notebooks: one"):
        store.collect("test")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("not json", "not valid JSON"),
        ('{"a": 1}', "must hold a list"),
        ('[{"id": "x"}]', "claims 'x' lacks notebook"),
        (None, "claims.json is not there: .* Run `make book`"),
    ],
)
def test_malformed_records(tmp_path, text, problem):
    (tmp_path / "quick").mkdir()
    if text is not None:
        (tmp_path / "quick" / "claims.json").write_text(text)
    with pytest.raises(store.RecordError, match=problem):
        store.load("quick", tmp_path)


def test_figure_whose_file_is_absent(tmp_path):
    records = store.Records("quick", tmp_path, [], [FIGURE])
    with pytest.raises(store.RecordError, match=r"'rise' names .*rise.png, which is absent"):
        records.figure_file(FIGURE, "png")
    file = tmp_path / "figures" / "01_x" / "rise.png"
    file.parent.mkdir(parents=True)
    file.touch()
    assert records.figure_file(FIGURE, "png") == file


def test_run_files_behind_a_figure(tmp_path):
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "b.nc").touch()
    assert paths.run_files(tmp_path, PROVENANCE) == [tmp_path / "paper" / "b.nc"]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The records of two notebooks, the first with a figure, its files and the merged records: their folder."""
    monkeypatch.setenv("EOSLIB_RESULTS", str(tmp_path))
    folder = tmp_path / "test"
    figure = FIGURE | {kind: f"figures/01_x/rise.{kind}" for kind in store.FIGURE_FILES}
    (folder / "figures" / "01_x").mkdir(parents=True)
    for kind in store.FIGURE_FILES:
        (folder / figure[kind]).write_text("drawn")
    other = record("02_y", claims=[CLAIM | {"id": "two", "notebook": "02_y"}], figures=[])
    for each in (record(figures=[figure]), other):
        store.write_json(folder / "records" / f"{each['notebook']}.json", each)
        store.write_json(folder / "notebooks" / f"{each['notebook']}.ipynb", {"cells": []})
    store.collect("test")
    return folder


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("records/02_y.json", b'{"notebook": "02_y", "cla', "it cannot be read"),
        ("records/02_y.json", b'{"notebook": "02_y"}', "it cannot be read"),
        ("notebooks/02_y.ipynb", b"", "it cannot be read"),
        ("notebooks/02_y.ipynb", b"\xff", "it cannot be read"),
        ("claims.json", b"[]", "it does not hold what the notebooks recorded"),
        ("figures.json", b'[{"id": ', "it does not hold what the notebooks recorded"),
    ],
)
def test_what_is_damaged_is_named(kept, name, content, said):
    notebooks = ("01_x", "02_y", "03_never_executed")
    assert store.damaged("test", notebooks) == {}
    (kept / name).write_bytes(content)
    assert store.damaged("test", notebooks)[kept / name] == said


def test_an_absent_or_empty_file_of_a_figure_is_missed(kept):
    for change in (lambda file: file.write_bytes(b""), lambda file: file.unlink()):
        change(kept / "figures" / "01_x" / "rise.pdf")
        assert store.damaged("test", ["01_x", "02_y"]) == {kept / "records" / "01_x.json": "rise.pdf is missing"}


WHERE = """
import os, sys
from selfstab.records import paths
for place in sys.argv[1:]:
    os.chdir(place)
    print(paths.results_root(), paths.recorded_root(), paths.other_code() is not None, sep="|")
"""


def test_one_rule_for_where_results_lie(tmp_path):
    """For the code of a checkout and for an installed copy, from its notebooks and from anywhere, or as told."""
    checkout, site, elsewhere, told = (tmp_path / name for name in ("a checkout", "site", "elsewhere", "told"))
    for root in (checkout, site):
        shutil.copytree(paths.ROOT / "selfstab" / "records", root / "selfstab" / "records")
        (root / "selfstab" / "__init__.py").touch()
    for folder in (checkout / "notebooks", elsewhere, told):
        folder.mkdir()
    (checkout / "Snakefile").touch()

    def where(code, **environment):
        kept = {name: value for name, value in os.environ.items() if name != "EOSLIB_RESULTS"}
        kept |= {"PYTHONPATH": str(code)} | environment
        command = [sys.executable, "-P", "-c", WHERE, checkout / "notebooks", elsewhere]
        lines = subprocess.run(command, env=kept, capture_output=True, text=True, check=True).stdout.splitlines()
        return [tuple(line.split("|")) for line in lines]

    own, there = str(checkout / "results"), str(elsewhere / "results")
    assert where(checkout) == [(own, own, "False")] * 2
    assert where(site) == [(own, own, "True"), (there, there, "False")]  # and says that edits have no effect
    written = where(checkout, EOSLIB_RESULTS=str(told))
    assert written == [(str(told), own, "False")] * 2, "recorded runs are read from the checkout"
    (told / "paper").mkdir()
    assert where(checkout, EOSLIB_RESULTS=str(told)) == [(str(told), str(told), "False")] * 2
