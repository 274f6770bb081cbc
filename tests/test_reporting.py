"""What a notebook shows: figures in every format with the points that they draw, and the verdict that closes a page."""

import csv

import matplotlib.pyplot as plt
import pytest

from eoslib import reporting

WORDS = {"caption": "Two lines and three dots, drawn.", "alt": "Two lines that cross and three dots."}


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setenv("EOSLIB_RESULTS", str(tmp_path))
    yield reporting.Page("01_x", scale="test")
    plt.close("all")


def drawing():
    fig, (left, right) = plt.subplots(1, 2)
    left.set_title("Left")
    left.plot([0, 1], [2.0, 3.5], color=reporting.COLORS["gd"])
    left.plot([0, 1], [1.0, 1 / 3], label="told")
    left.axhline(1.0)
    right.set_ylabel("height")
    right.scatter([1, 2, 3], [4, 5, 6], color=reporting.COLORS["flow"])
    return fig


def test_points_of_a_figure(page):
    """Every line and dot of every panel, by its label or else its colour's name; lines across a panel are no data."""
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
    assert set(starts) == set(reporting.FIGURE_FILES)
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
            "**Verdict.** 1 of 2 claims of this page hold at test scale, seed 0. ✗ Not found true: *Claim 1.*",
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


def test_a_page_without_claims_has_no_verdict(page, monkeypatch):
    said = []
    monkeypatch.setattr(page, "say", said.append)
    page.close()
    assert not said
