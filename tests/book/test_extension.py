"""The book's extension: pages quote what was recorded, and a build without records or with an unknown name fails."""

from __future__ import annotations

import base64
import doctest
import html
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from browsing import PATIENCE

from eoslib.trajectories import variables
from selfstab import source
from selfstab.runs import files as run_files

EXTENSIONS = Path(__file__).resolve().parents[2] / "book" / "_ext"
NOTEBOOK = "01_progressive_sharpening"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
CLAIM = {
    "id": "sharpness-rises",
    "notebook": NOTEBOOK,
    "sentence": "The sharpness rises.",
    "quantity": "S at the end over 2/η",
    "predicted": 1.0,
    "measured": 1.0371,
    "spread": 0.02,
    "tolerance": 0.05,
    "reason": "one step changes it by less",
    "relation": "equals",
    "verdict": "holds",
    "scale": "quick",
    "seed": 0,
}
FIGURE = {
    "id": "sharpness",
    "notebook": NOTEBOOK,
    **{kind: f"figures/{NOTEBOOK}/sharpness.{kind}" for kind in ("svg", "pdf", "png", "csv")},
    "caption": "It rises to $2/\\eta$.",
    "alt": "A rising curve.",
    "provenance": {
        "setting": ["mlp"],
        "scale": "quick",
        "seed": [0],
        "commit": "abcdef",
        "library_digest": "12",
        "versions": {"jax": "0"},
        "device": "cpu",
        "threads": 1,
        "seconds": 75.0,
        "data_hash": "34",
        "date": "2026-01-01 00:00 UTC",
    },
}


def write(root: Path, claims: list[dict], figures: list[dict], scale: str = "quick") -> Path:
    folder = root / scale
    for figure in figures:
        for kind in ("svg", "pdf", "png", "csv"):
            file = folder / figure[kind]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(PIXEL if kind == "png" else b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "claims.json").write_text(json.dumps(claims))
    (folder / "figures.json").write_text(json.dumps(figures))
    return root


def build(tmp_path: Path, text: str, results: Path) -> tuple[int, str, str]:
    """Exit status, messages and HTML of a one-page book that uses the extension."""
    source = tmp_path / "source"
    (source / "chapters").mkdir(parents=True, exist_ok=True)
    (source / "_assets").mkdir(exist_ok=True)
    (source / "conf.py").write_text(
        f"import sys; sys.path.insert(0, {str(EXTENSIONS)!r})\n"
        "extensions = ['myst_parser', 'sphinx.ext.mathjax', 'eosbook']\n"
        "myst_enable_extensions = ['attrs_block', 'attrs_inline', 'colon_fence', 'dollarmath', 'substitution']\n"
        "html_theme = 'basic'\n"
        "html_static_path = ['_assets']\nmathjax_path = 'vendor/mathjax/tex-svg.js'\n"
        "exclude_patterns = ['_generated', '_assets']\n"
    )
    (source / "index.md").write_text(f"# Page\n\n{text}\n\n```{{toctree}}\nchapters/{NOTEBOOK}\n```\n")
    (source / "chapters" / f"{NOTEBOOK}.md").write_text("# Progressive sharpening\n\n(fig-sharpness)=\nWords.\n")
    told = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "-n", "--keep-going", str(source), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=PATIENCE / 1000,
        env=os.environ | {"EOSLIB_RESULTS": str(results), "EOSLIB_BOOK_SCALE": "quick", "PYTHONWARNINGS": "default"},
    )
    page = tmp_path / "out" / "index.html"
    return told.returncode, told.stderr, page.read_text(encoding="utf-8") if page.is_file() else ""


def test_prose_quotes_the_record_and_follows_it(tmp_path):
    text = "Measured {{ claim_sharpness_rises_measured }}; {{ claims_holding }} of {{ claims_total }} hold."
    results = write(tmp_path / "results", [CLAIM], [FIGURE])
    status, messages, page = build(tmp_path, text, results)
    assert status == 0, messages
    assert "Measured 1.037; 1 of 1 hold." in page
    write(results, [CLAIM | {"measured": 1.2, "verdict": "does not hold"}], [FIGURE])
    status, messages, page = build(tmp_path, text, results)
    assert status == 0, messages
    assert "Measured 1.2; 0 of 1 hold." in page


def test_unknown_name_fails_the_build(tmp_path):
    results = write(tmp_path / "results", [CLAIM], [FIGURE])
    status, messages, _ = build(tmp_path, "Measured {{ claim_sharpness_falls_measured }}.", results)
    assert status != 0
    assert "claim_sharpness_falls_measured" in messages


def test_missing_records_say_what_to_do(tmp_path):
    status, messages, _ = build(tmp_path, "Words.", tmp_path / "nothing")
    assert status != 0
    assert "claims.json is not there" in messages
    assert "make book" in messages


def test_pages_made_of_records(tmp_path):
    """Claims, computed and recorded, with their verdicts, gallery, story figure in plain signs, status table."""
    again = {"predicted": 1.0, "measured": 1.2, "spread": 0.0, "tolerance": 0.125, "verdict": "does not hold"}
    alone = CLAIM | {"id": "alone", "sentence": "It is quick alone."}
    results = write(tmp_path / "results", [CLAIM | {"recorded": again}, alone], [FIGURE])
    setting = {
        "name": "a",
        "model": "mlp",
        "width": 200,
        "dataset": "sst2",
        "criterion": "logistic",
        "n": 5000,
        "learning_rate": 0.02,
    }
    known = {"setting": json.dumps(setting), "threads": 2, "date": "today"}
    known |= {"key": "a--eta0.02--seed0", "learning_rate": 0.02, "instability_step": 744, "single_direction_until": 300}
    known |= {"seconds": 5400.0, "device": "a machine", "seed": 0}
    recorded = xr.Dataset(
        {name: (variables.get(name).dims, np.arange(3.0)) for name in run_files.REQUIRED_VARIABLES},
        {"t": np.arange(1200)},
    )
    recorded["alpha"] = "t", np.full(1200, 10.0)  # ε = .063: cycles of 70 steps
    recorded = recorded.assign_attrs(dict.fromkeys(run_files.REQUIRED_ATTRIBUTES, "?") | known)
    run_files.write(recorded, results / "paper" / "a--eta0.02--seed0.nc")
    of_today = {"library_digest": source.numerical_digest(), "seed": 1, "seconds": 60.0}
    pilot = recorded.isel(t=slice(100)).assign_attrs(of_today | {"single_direction_until": -1})
    run_files.write(pilot, results / "paper" / "a--eta0.02--seed1.nc")
    apart = recorded.drop_dims("t").assign_attrs(of_today | {"seed": 2, "library_digest": run_files.FORMER})
    run_files.write(apart, results / "paper" / "a--eta0.02--seed2.nc")
    text = f"```{{story-figure}} {NOTEBOOK}/absent {NOTEBOOK}/sharpness\n```\n\n```{{claims-table}}\n```\n\n"
    text += "```{figure-gallery}\n```\n\n```{status-report}\n```\n\nIt took {{ recorded_hours }} hours.\n\n"
    text += f"{{chapter}}`{NOTEBOOK}` {{chapter}}`09_absent`"
    status, messages, page = build(tmp_path, text, results)
    assert status == 0, messages
    assert "1.037 ± 0.02" in page
    assert "It took 1.5 hours." in page
    told = page.replace("’", "'")
    former = run_files.of_today(apart)  # until the numerical code changes
    assert f"{1 + former} of 3 were computed by today's numerical code" in told
    assert ("or by the code before it, which computes the same unless" in told) == former
    assert "The others were computed by older code" in told
    assert "1 of them is one. Together they took 1 h 32 min." in page
    assert f'href="chapters/{NOTEBOOK}.html#fig-sharpness"' in page
    for kind in ("svg", "pdf", "png", "csv"):
        assert f'sharpness.{kind}"' in page
    assert "✓ holds" in page
    assert "✗ does not hold" in page
    assert "allowed 1 ± 0.12" in page
    assert re.search(r"It is quick alone\..*?<td><p>–</p>", page, re.DOTALL)
    assert "It rises to 2/η." in page
    assert page.count('alt="A rising curve."') == 2
    assert "1 min 15 s of computing" in page
    assert f'href="chapters/{NOTEBOOK}.html"' in page
    assert "(2 of 2 claims hold, 0 of 1 on recorded runs)" in page
    assert "absent (not in this build)" in page
    for told in (
        "MLP, width 200, SST-2, logistic, 2 seeds (1 more never met the edge)",
        "744 + 100 to 1,200",
        "1.4 to 17.1, pilot (1 of 2)",
        "step 300 (1 of 2); not known (1 of 2)",
        "1 h 32 min",
        "a machine, 2 threads, today, older code (1 of 2)",
    ):
        assert f"{told}</p>" in page


def test_mutants_and_who_notices_them(tmp_path):
    """From the record alone: each mutant with the claims that turn red, each claim with how many it notices."""
    text = "```{mutants-table}\n```"
    results = write(tmp_path / "results", [CLAIM], [FIGURE])
    status, messages, page = build(tmp_path, text, results)
    assert status == 0, messages
    assert "No examination is recorded in this build." in page
    claim = {"id": "rises", "notebook": NOTEBOOK, "sentence": "It *rises*.", "verdict": "holds", "measured": 1.0}
    others = [claim | {"id": "falls", "sentence": "It falls."}, claim | {"id": "never", "verdict": "does not hold"}]
    seen = {
        "name": "no-force",
        "breaks": "There is no $x$.",
        "files": ["a_b.py"],
        "chapters": [NOTEBOOK],
        "red": ["rises"],
    }
    seen |= {"failed": {}, "seconds": 9.0}
    unseen = seen | {"name": "same", "red": [], "failed": {NOTEBOOK: "ValueError: x_1 must be *positive*"}}
    origin = {
        "scale": "quick",
        "seed": 0,
        "unbroken": "All is there.",
        "date": "today",
        "device": "A_CPU",
        "threads": 2,
    }
    origin |= {"seconds": 7200.0, "commit": "abc", "library_digest": "12"}
    record = origin | {"claims": [claim, *others], "mutants": [seen, unseen]}
    (results / "mutants.json").write_text(json.dumps(record))
    status, messages, page = build(tmp_path, text, results)
    assert status == 0, messages
    words = " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())
    assert "1 of 2 mutants are noticed: at least one claim turns red. Of the 2 claims" in words
    assert "today: A_CPU, 2 threads, 2 h 0 min of computing, commit abc, numerical code 12; 2 of the mutants" in words
    assert "All is there." in words
    assert re.search(r"mutants are noticed: at least.*<h\d>Who notices whom", page, re.DOTALL)
    assert re.search(r"no-force, in a_b\.py\. 01: rises\. 1 of 2", words)
    assert "stops with words: ValueError: x_1 must be *positive* none 0 of 2" in words
    assert re.search(r"It rises\. rises 01 1 of 2 It falls\. falls 01 0 of 2", words)
    assert "does not hold on the unbroken code" in words


def test_source_line_is_the_one_in_the_source(tmp_path):
    results = write(tmp_path / "results", [CLAIM], [FIGURE])
    status, messages, page = build(
        tmp_path, "{source}`selfstab.theory.reduced.orbit` {source}`eoslib.geometry.LocalGeometry.beta`", results
    )
    assert status == 0, messages
    lines = (EXTENSIONS.parents[1] / "selfstab" / "theory" / "reduced.py").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.startswith("def orbit("))
    assert f"(line {line})" in page
    assert 'href="_modules/selfstab/theory/reduced.html#orbit"' in page
    assert 'href="_modules/eoslib/geometry.html#LocalGeometry"' in page
    status, messages, _ = build(tmp_path, "{source}`selfstab.theory.reduced.never_written`", results)
    assert status != 0
    assert "there is no 'selfstab.theory.reduced.never_written'" in messages


def test_record_without_its_chapter_fails_the_build(tmp_path):
    results = write(tmp_path / "results", [CLAIM | {"notebook": "02_elsewhere"}], [FIGURE])
    status, messages, _ = build(tmp_path, "```{claims-table}\n```", results)
    assert status != 0
    assert "02_elsewhere" in messages


def test_story_figure_must_exist(tmp_path):
    results = write(tmp_path / "results", [CLAIM], [FIGURE])
    status, messages, _ = build(tmp_path, f"```{{story-figure}} {NOTEBOOK}/absent\n```", results)
    assert status != 0
    assert "none of the figures" in messages


def test_a_published_chapter_opens_where_it_runs(monkeypatch):
    """Where the build knows its repository, a chapter links to its notebook on Colab, on Binder and in the source."""
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    eosbook = importlib.import_module("eosbook")

    def buttons(page: str) -> list[dict]:
        context = {"header_buttons": []}
        eosbook.launch_buttons(None, page, "page.html", context, None)
        return [button for group in context["header_buttons"] for button in group["buttons"]]

    for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    assert buttons(f"chapters/{NOTEBOOK}") == []
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "somebody/a-book")
    monkeypatch.setenv("GITHUB_REF_NAME", "next")
    assert buttons("claims") == []
    assert {button["text"]: button["url"] for button in buttons(f"chapters/{NOTEBOOK}")} == {
        "Colab": f"https://colab.research.google.com/github/somebody/a-book/blob/next/notebooks/{NOTEBOOK}.ipynb",
        "Binder": f"https://mybinder.org/v2/gh/somebody/a-book/next?urlpath=lab/tree/notebooks/{NOTEBOOK}.ipynb",
        "Source": f"https://github.com/somebody/a-book/blob/next/notebooks/{NOTEBOOK}.ipynb",
    }


@pytest.mark.parametrize("name", ["directives", "generated"])
def test_examples_in_docstrings(monkeypatch, name):
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert not failed
    assert tried


def test_records_are_shown_as_they_were_written(tmp_path):
    """Sentences and captions are MyST on one line, whatever begins them; names and alt texts are plain."""
    claim = CLAIM | {
        "sentence": "2. of *three* meet $S_1$,\n\n# not a heading.",
        "quantity": "{S}* over 2/η",
        "reason": "a < b_c_d & `code`: 3 | 4.",
        "paper": "- the paper",
        "nulls": [{"name": "no $S_1$", "measured": 0.5, "verdict": "does not hold"}],
    }
    provenance = FIGURE["provenance"] | {"device": "A_CPU_ *fast* [2](x) $n$ <b>", "commit": "#1"}
    alt = """Two: "a" # 'b' _c_ \\ {d}, <e>."""
    figure = FIGURE | {"caption": "> It **rises**, * and _then_ falls_by_half.", "alt": alt, "provenance": provenance}
    results = write(tmp_path / "results", [claim], [figure])
    text = "```{claims-table}\n```\n\n```{figure-gallery}\n```\n\n```{status-report}\n```\n"
    status, messages, page = build(tmp_path, text, results)
    assert status == 0, messages
    formula = '<span class="math notranslate nohighlight">\\(S_1\\)</span>'
    together = f'<span class="together">{formula}'
    assert f'<p class="claim-sentence">2. of <em>three</em> meet {together},</span> # not a heading.</p>' in page
    reason = (
        'a &lt; b_c_d &amp; <code class="docutils literal notranslate"><span class="pre">code</span></code>: 3 | 4.'
    )
    assert f'<p class="claim-reason">{{S}}* over 2/η. Predicted 1, tolerance 0.05: {reason}</p>' in page
    assert f"Null models, which must fail it: no {together}:</span> 0.5." in page
    assert '<p class="claim-reason">The paper: - the paper</p>' in page
    caption = "&gt; It <strong>rises</strong>, * and <em>then</em> falls_by_half."
    assert f'<p class="figure-caption">{caption}</p>' in page
    device = "A_CPU_ *fast* [2](x) $n$ &lt;b&gt;"
    assert f"seed 0 · {device}, 1 thread · 1 min 15 s of computing · commit #1</p>" in page
    assert f"<td><p>{device}</p></td>" in page
    assert html.unescape(re.search(r'alt="([^"]*)"', page).group(1)) == alt
