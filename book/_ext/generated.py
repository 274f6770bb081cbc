"""Parts of pages that a Jinja template of ``_templates`` writes from data, parsed as MyST like prose."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jinja2
from docutils import nodes
from docutils.statemachine import StringList
from docutils.utils import smartquotes
from sphinx.util.docutils import SphinxDirective

from selfstab.records import words
from selfstab.records.claims import SIGNS
from selfstab.records.store import FIGURE_FILES

#: ``{#`` opens an identifier in MyST, hence no comment of Jinja's.
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "_templates"),
    comment_start_string="<#",
    comment_end_string="#>",
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def inline(text: str) -> str:
    r"""Return MyST on one line that begins no block: a sentence is a paragraph, whatever its first words.

    >>> print(inline("2. of\n three"), inline("*S* rises"), inline("- 1"), inline("% of it"), sep="; ")
    2\. of three; *S* rises; \- 1; \% of it
    """
    return re.sub(r"^(\d*)([-+*.)](?=\s)|[>#%])", r"\1\\\2", " ".join(text.split()))


def plain(value, digits: int = 4) -> str:
    """Return a value as text that MyST shows unchanged."""
    return inline(words.escaped(words.as_text(value, digits)))


def quoted(text: str) -> str:
    """Return text as the value of a directive's option, whatever signs it holds."""
    return json.dumps(text, ensure_ascii=False)


def typographic(text: str) -> str:
    """Return plain text with the quotes and dashes that Sphinx gives to prose, for templates that write HTML.

    >>> typographic('the "edge" -- near')
    'the “edge” – near'
    """
    return smartquotes.smartyPants(text, "qDe")


TEMPLATES.filters |= {"typographic": typographic, "inline": inline, "plain": plain, "quoted": quoted}
WORDS = words.allowed, words.duration, words.null_models, words.provenance_line, words.with_spread
TEMPLATES.filters |= {each.__name__: each for each in WORDS}
TEMPLATES.globals |= {"signs": SIGNS, "figure_files": FIGURE_FILES}


class Generated(SphinxDirective):
    """The directive ``name``: what the template ``name.md.j2`` makes of :meth:`context`."""

    def context(self) -> dict:
        """Return what the template is rendered with."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        text = TEMPLATES.get_template(f"{self.name}.md.j2").render(self.context())
        holder = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), self.name), 0, holder, match_titles=True)
        return holder.children
