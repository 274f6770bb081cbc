"""A figure and its recorded twin become two tabs of one figure."""

import importlib
from pathlib import Path

import pytest
from docutils import nodes

EXTENSIONS = Path(__file__).resolve().parents[2] / "book" / "_ext"


@pytest.fixture
def tabs(monkeypatch):
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    return importlib.import_module("tabs")


def test_figures_of_two_scales_become_tabs(tabs):
    """Only a figure that its recorded twin follows does; nothing is lost, and the order stays."""

    def cell(name):
        return nodes.container("", nodes.figure("", ids=[f"fig-{name}"]), classes=["cell"])

    words = [nodes.paragraph(text=name) for name in ("before", "one", "two", "between", "lone", "odd", "end")]
    pair, others = [cell("a"), words[1], cell("a-paper"), words[2]], [cell("b"), words[4], cell("c-paper"), words[5]]
    done = tabs.in_tabs([words[0], *pair, words[3], *others, words[6]], ("Here", "Recorded"))
    assert next(node["classes"] for node in done if isinstance(node, nodes.container)) == ["sd-tab-set", "scales"]
    assert len(done) == 8
    assert [node.astext() for node in done[1].findall(nodes.rubric)] == ["Here", "Recorded"]
    assert [item.children[1].children for item in done[1].children] == [pair[:2], pair[2:]]
    assert done[2:] == [words[3], *others, words[6]]
