"""A figure of this page's scale and its recorded twin become two tabs of one figure, in HTML; on paper both stand."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx_design.shared import create_component

#: What the id of a recorded figure ends in; without it, it is its twin's.
RECORDED = "-paper"


def figure_of(node: nodes.Node) -> str:
    """Return the id of the figure that a notebook's cell shows, or "" where a node is no such cell."""
    if not (isinstance(node, nodes.container) and "cell" in node["classes"]):
        return ""
    return next(
        (name for figure in node.findall(nodes.figure) for name in figure["ids"] if name.startswith("fig-")), ""
    )


def in_tabs(children: list[nodes.Node], labels: tuple[str, str]) -> list[nodes.Node]:
    """Return nodes with each pair of a figure and its recorded twin, and what follows each, in a tab set."""
    done, rest = [], list(children)
    while rest:
        name = figure_of(rest[0])
        if not (name and len(rest) >= 4 and figure_of(rest[2]) == name + RECORDED):
            done.append(rest.pop(0))
            continue
        items = []
        for label, shown in zip(labels, (rest[:2], rest[2:4]), strict=True):
            title = nodes.rubric(label, "", nodes.Text(label), classes=["sd-tab-label"])
            content = create_component("tab-content", classes=["sd-tab-content"], children=shown)
            items.append(create_component("tab-item", classes=["sd-tab-item"], children=[title, content]))
        done.append(create_component("tab-set", classes=["sd-tab-set", "scales"], children=items))
        rest = rest[4:]
    return done


class ScalesInTabs(SphinxPostTransform):
    """Run :func:`in_tabs` over a page before sphinx-design writes its tab sets."""

    default_priority = 150
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        labels = (f"{self.config.eosbook_records.scale.capitalize()} scale, computed here", "Recorded")
        for section in list(self.document.findall(nodes.section)):
            section.children = in_tabs(section.children, labels)
            for child in section.children:
                child.parent = section


def setup(app: Sphinx) -> dict:
    app.add_post_transform(ScalesInTabs)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
