"""Executed notebooks become chapters: exercises, links into the book, and the functions that a figure rests on."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("workflow_chapters", ROOT / "workflow" / "chapters.py")
chapters = importlib.util.module_from_spec(_spec)
sys.modules["workflow_chapters"] = chapters
_spec.loader.exec_module(chapters)


def cell(kind: str, source: str, *tags: str):
    made = nbformat.v4.new_code_cell(source) if kind == "code" else nbformat.v4.new_markdown_cell(source)
    made.metadata["tags"] = list(tags)
    return made


def test_exercises_are_numbered_objects_with_folded_solutions():
    source = [
        cell("markdown", "Words."),
        cell("markdown", "## Exercise: Twice the rate\n\nWhat then?", "exercise"),
        cell("markdown", "It halves.", "solution"),
        cell("code", "print(1)", "solution"),
        cell("markdown", "## Exercise: Once more\n\nAnd then?", "exercise"),
        cell("markdown", "Again.", "solution"),
    ]
    made = [one.source for one in chapters.with_exercises(source, "01_x")]
    assert made == [
        "Words.",
        "## Exercises\n\n::::{exercise} Twice the rate\n:label: exercise-01-x-1\n\nWhat then?\n::::",
        "::::{solution-start} exercise-01-x-1\n:class: dropdown\n::::",
        "It halves.",
        "print(1)",
        "::::{solution-end}\n::::",
        "::::{exercise} Once more\n:label: exercise-01-x-2\n\nAnd then?\n::::",
        "::::{solution-start} exercise-01-x-2\n:class: dropdown\n::::",
        "Again.",
        "::::{solution-end}\n::::",
    ]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (cell("markdown", "It halves.", "solution"), "01_x: a cell tagged 'solution' comes before any"),
        (cell("markdown", "Twice?", "exercise"), "01_x: an exercise begins with .*, got 'Twice.'"),
    ],
)
def test_exercises_of_another_form(source, said):
    with pytest.raises(chapters.ChapterError, match=said):
        chapters.with_exercises([source], "01_x")


def test_functions_behind_a_figure():
    """Those that its cell or the definitions behind it use: not what another figure, or nothing, uses."""
    cells = [
        "from eoslib import geometry\nfrom selfstab import page",
        "from selfstab.theory import reduced as r\n%matplotlib inline",
        "def draw(run):\n    return plot(run.flow_loss, r.radius(alpha=1.0, beta=1.0))",
        "other = geometry.local_geometry(loss, params)\npath = r.orbit(1, 2, 3)",
        "page.figure(path)",
        "fig = draw(run)\nfor name in ('rho3', 'third_along_v'):\n    plot(run[name])\npage.figure(fig, 'one')",
    ]
    found = ["flow.flow_step", "assumptions.tensor_norm", "assumptions.measure"]
    found = ["selfstab.theory.reduced.radius", *(f"eoslib.trajectories.{name}" for name in found)]
    assert sorted(chapters.rests_on(cells)) == sorted(found)
    assert chapters.rests_on(cells[:5]) == ["selfstab.theory.reduced.orbit"]


def test_links_into_the_book():
    text = "[M](../book/notation.md#def-stable-set) [`project`](../book/api.md#eoslib.stable_set.project)"
    text += " [lab](../book/lab.md#try)"
    assert chapters.links_into_book(text) == (
        "M ({prf:ref}`def-stable-set`) {py:obj}`project <eoslib.stable_set.project>` [lab](../lab.md#try)"
    )
