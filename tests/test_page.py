"""What a notebook shows: figures in every format with their points, records of claims, and the closing verdict."""

import csv
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from selfstab.page import COLORS, Page
from selfstab.records import store
from selfstab.records.claims import furthest, several
from selfstab.runs import compute

WORDS = {"caption": "Two lines and three dots, drawn.", "alt": "Two lines that cross and three dots."}


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setenv("EOSLIB_RESULTS", str(tmp_path))
    yield Page("01_x", scale="test")
    plt.close("all")


def drawing():
    fig, (left, right) = plt.subplots(1, 2)
    left.set_title("Left")
    left.plot([0, 1], [2.0, 3.5], color=COLORS["gd"])
    left.plot([0, 1], [1.0, 1 / 3], label="told")
    left.axhline(1.0)
    right.set_ylabel("height")
    right.scatter([1, 2, 3], [4, 5, 6], color=COLORS["flow"])
    return fig


def test_a_page_asks_for_its_chapter_s_runs_alone_and_says_when_one_is_computed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EOSLIB_RESULTS", str(tmp_path))
    page = Page("04_constrained_trajectory", scale="test")
    with pytest.raises(ValueError, match=r"unknown run of chapter 04_constrained_trajectory 'vgg11-cifar10'"):
        page.runs("vgg11-cifar10")
    made = []
    monkeypatch.setattr(compute, "load_or_run", lambda setting, seed: made.append(setting.key(seed)) or xr.Dataset())
    assert len(page.runs("mlp-cifar10")) == 1
    assert made == ["mlp-cifar10--eta0.02--seed0"]
    assert capsys.readouterr().out == "Computing mlp-cifar10--eta0.02--seed0 at test scale: there is no file yet.\n"
    assert page.runs() == []


def test_points_of_a_figure(page):
    """Every line and dot of every panel, by its label or else its color's name; lines across a panel are no data."""
    page.figure(drawing(), "two", **WORDS)
    with open(page.folder / page.figures[0]["csv"], newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [tuple(row.values()) for row in rows] == [
        ("Left", "gd 1", "0", "2"),
        ("Left", "gd 1", "1", "3.5"),
        ("Left", "told", "0", "1"),
        ("Left", "told", "1", "0.3333333"),
        ("height", "flow 1", "1", "4"),
        ("height", "flow 1", "2", "5"),
        ("height", "flow 1", "3", "6"),
    ]


def test_files_of_a_figure_are_whole_and_repeatable(page):
    """SVG, PDF, PNG and CSV; drawn again, they are the same bytes."""
    page.figure(drawing(), "two", **WORDS)
    page.figure(drawing(), "again", **WORDS)
    starts = {"svg": b"<?xml", "pdf": b"%PDF-", "png": b"\x89PNG", "csv": b"panel,"}
    assert set(starts) == set(store.FIGURE_FILES)
    first, second = page.figures
    for kind, start in starts.items():
        content = (page.folder / first[kind]).read_bytes()
        assert content.startswith(start)
        assert content == (page.folder / second[kind]).read_bytes(), kind


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        ((1.0, 1.05), "**Verdict.** ✓ Every claim of this page holds (2 of 2, at test scale, seed 0)."),
        (
            (1.0, 2.0),
            "**Verdict.** 1 of 2 claims of this page hold (at test scale, seed 0). ✗ Not found true: *Claim 1.*",
        ),
    ],
)
def test_a_page_closes_with_its_verdict(page, monkeypatch, measured, told):
    for number, value in enumerate(measured):
        how = dict(quantity="q", predicted=1.0, tolerance=0.1, reason="r", show=False)
        page.claim(f"claim-{number}", f"Claim {number}.", measured=value, **how)
    said = []
    monkeypatch.setattr(page, "say", said.append)
    page.close()
    assert said == [told]


def test_recorded_runs_are_judged_beside_the_claim(page, monkeypatch):
    """Their numbers are kept with the claim's, their verdict is told at the end; other claims are as they were."""
    told = dict(quantity="q", reason="r", predicted=1.0)
    for name in ("one", "two", "three"):
        page.claim(name, f"Claim {name}.", measured=1.0, tolerance=0.1, show=False, **told)
    judge = page.recorded(xr.Dataset(attrs={"key": "a-run", "scale": "paper"}))
    judge("one", "Claim one.", measured=1.4, tolerance=0.5, spread=0.25, **told)
    judge("two", "Claim two.", measured=float("nan"), tolerance=0.5, **told)
    ours = {"scale": "paper", "runs": ["a-run"], "predicted": 1.0, "tolerance": 0.5, "nulls": []}
    assert [claim.get("recorded") for claim in page.claims] == [
        ours | {"measured": 1.4, "spread": 0.25, "verdict": "holds"},
        ours | {"measured": None, "spread": 0.0, "verdict": "does not hold"},
        None,
    ]
    assert {claim["measured"] for claim in page.claims} == {1.0}
    said = []
    monkeypatch.setattr(page, "say", said.append)
    page.close()
    assert said == [
        "**Verdict.** ✓ Every claim of this page holds (3 of 3, at test scale, seed 0). On the recorded runs: "
        "1 of 2 claims that they can judge hold (`a-run`). ✗ Not found true: *Claim two.*"
    ]


def test_recorded_runs_judge_only_what_was_claimed(page):
    told = dict(quantity="q", reason="r", predicted=1.0, measured=1.0, tolerance=0.1)
    page.claim("one", "Claim one.", show=False, **told)
    judge = page.recorded(xr.Dataset(attrs={"key": "a-run", "scale": "paper"}))
    with pytest.raises(ValueError, match="claim 'other' must be made once by `claim` first"):
        judge("other", "Claim other.", **told)
    with pytest.raises(ValueError, match="with the relation 'at most'"):
        judge("one", "Claim one.", relation="at most", **told)
    judge("one", "Claim one.", **told)
    with pytest.raises(ValueError, match="must be made once"):
        judge("one", "Claim one.", **told)


def test_null_models_are_judged_by_the_rule_of_their_claim(page, monkeypatch):
    """Beside the claim, in its record and in the table; one that passes is named."""
    said = []
    monkeypatch.setattr(page, "say", said.append)
    told = dict(quantity="q", reason="r", predicted=1.0, measured=1.01, tolerance=0.02)
    page.claim("one", "It is one.", nulls={"no force": 0.5, "half of it": float("inf")}, **told)
    assert said[1] == "Null models, which know less and must fail: no force: 0.5; half of it: –."
    page.null("one", "nearly", 0.99)
    assert [(null["measured"], null["verdict"]) for null in page.claims[0]["nulls"]] == [
        (0.5, "does not hold"), (None, "does not hold"), (0.99, "holds"),
    ]  # fmt: skip
    page.claim("two", "It is small.", relation="at most", spread=0.5, show=False, **told)
    page.compare()
    assert said[2].splitlines()[2:4] == [
        "| – It is one. | 1.01 | 1 ± 0.02 | no force: 0.5; half of it: –; nearly: 0.99 (passes) |",
        "| ✓ It is small. | 1.01 ± 0.5 | ≤ 1.02 |  |",
    ]
    assert "\n\nNull models that pass: nearly (one). The claims page" in said[2]
    with pytest.raises(ValueError, match="claim 'three' must be made"):
        page.null("three", "no force", 0.0)


def test_a_claim_is_not_tested_where_a_null_model_passes_too(page, monkeypatch):
    """It holds, and so does the null model: no evidence; one that does not hold stays so; on recorded runs too."""
    told = dict(quantity="q", reason="r", predicted=1.0, tolerance=0.1, nulls={"nothing": 1.05})
    page.claim("one", "It is one.", measured=1.0, show=False, **told)
    page.claim("two", "It is two.", measured=2.0, show=False, **told)
    page.claim("three", "It is three.", measured=1.0, show=False, **told | {"nulls": {"nothing": 3.0}})
    page.recorded(xr.Dataset(attrs={"key": "a-run", "scale": "paper"}))("three", "", measured=1.0, **told)
    untested = "is not tested here"
    assert [claim["verdict"] for claim in page.claims] == [untested, "does not hold", "holds"]
    assert page.claims[2]["recorded"]["verdict"] == untested
    assert page.claims[2]["recorded"]["nulls"] == [{"name": "nothing", "measured": 1.05, "verdict": "holds"}]
    said = []
    monkeypatch.setattr(page, "say", said.append)
    page.close()
    assert said[0].startswith(
        "**Verdict.** 1 of 3 claims of this page hold (at test scale, seed 0). ✗ Not found true: *It is two.* "
        "– Not tested, as a null model passes too: *It is one.* On the recorded runs: 0 of 1"
    )


def test_a_null_model_that_was_not_computed_leaves_its_claim_untested(page):
    """NaN is no failure, infinity is one: that null model diverged."""
    told = dict(quantity="q", reason="r", predicted=0.0, measured=0.0, tolerance=0.1, relation="at most", show=False)
    page.claim("one", "It is one.", nulls={"nothing": float("inf")}, **told)
    page.claim("two", "It is two.", nulls={"nothing": float("nan")}, **told)
    assert [claim["verdict"] for claim in page.claims] == ["holds", "is not tested here"]


def test_the_worst_of_several_runs_makes_the_claim(page):
    """By verdict, then in units of its own tolerance; median and range are kept, and one run has none."""

    def judge(run, claim):
        measured, tolerance, null = run.attrs["numbers"]
        claim("one", "It is one.", quantity="q", reason="r", predicted=1.0, measured=measured, tolerance=tolerance,
              nulls={"nothing": null}, show=False)  # fmt: skip

    def worst(*runs):
        page.claims.clear()
        page.over([xr.Dataset(attrs={"numbers": numbers}) for numbers in runs], judge, page.claim)
        return page.claims[0]

    near, narrow, beside = (1.1, 1.0, 3.0), (1.05, 0.1, 3.0), (1.0, 1.0, 1.5)
    assert worst(near, narrow)["measured"] == 1.05
    assert worst(near, narrow)["spread"] == pytest.approx(0.025)
    assert worst(near, narrow)["each"] == {"count": 2, "least": 1.05, "median": pytest.approx(1.075), "most": 1.1}
    assert worst(near, narrow)["quantity"] == "q; the worst of 2 runs"
    assert worst(near, beside, narrow)["verdict"] == "is not tested here"
    assert worst(near, beside, (1.2, 0.1, 3.0))["verdict"] == "does not hold"
    assert worst(near, (float("nan"), 1.0, 3.0))["measured"] is None
    assert (worst(near)["quantity"], worst(near)["spread"], worst(near).get("each")) == ("q", 0.0, None)
    page.claims.clear()
    page.over([], judge, page.claim)
    assert page.claims == []


def test_a_page_without_claims_has_no_verdict(page, monkeypatch):
    said = []
    monkeypatch.setattr(page, "say", said.append)
    page.close()
    assert not said


def test_a_page_records_what_it_shows(page, tmp_path):
    fig, ax = plt.subplots()
    ax.plot([0, 1])
    page.figure(
        fig, "line", caption="One line that rises from left to right.", alt="A line that rises from left to right."
    )
    told = dict(quantity="q", predicted=1.0, measured=float("nan"), tolerance=0.1, reason="r")
    page.claim("one", "It rises.", **told)
    with pytest.raises(ValueError, match="claim id 'one' is already used"):
        page.claim("one", "It rises.", **told)
    with pytest.raises(ValueError, match="needs a caption and an alt text"):
        page.figure(plt.figure(), "short", caption="no", alt="x.png")
    page.close()
    claims, figures = store.collect("test")
    assert claims[0]["verdict"] == "does not hold"
    assert claims[0]["measured"] is None
    assert (tmp_path / "test" / figures[0]["svg"]).exists()
    assert json.loads((tmp_path / "test" / "claims.json").read_text()) == claims
    other = Page("02_x", scale="test")
    other.claim("one", "It rises.", **told)
    other.close()
    with pytest.raises(ValueError, match="ids used by two notebooks: one"):
        store.collect("test")


def test_a_nan_among_runs_is_the_worst_of_them():
    """Python's max and min pass over one, or return it, by its place in the row."""
    assert several([1, 3, 2]) == {"measured": 3.0, "each": [1.0, 3.0, 2.0]}
    assert several([1, 3, 2], min)["measured"] == 1.0
    assert (furthest([0.5, 1.2]), furthest([-3, 1], 0.0)) == (0.5, -3.0)
    for row in ([1.0, np.nan], [np.nan, 1.0]):
        assert np.isnan([several(row)["measured"], several(row, min)["measured"], furthest(row)]).all()
    assert np.isnan(furthest([]))
