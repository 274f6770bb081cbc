"""The self-stabilization lab's place in the book: its scripts on its page only, and a still figure that needs none.

Directives: ``{lab}``, ``{lab-pair}`` and ``{lab-maps}`` (the interactive parts, of one direction, of two, and of losses
small enough to solve, with words for readers without scripts), and ``{lab-still}`` (the four stages of the toy loss,
iterated by :mod:`selfstab.theory.reduced` when the book is built and drawn as inline SVG, so that paper, both themes
and screen readers get it).
"""

from __future__ import annotations

from html import escape

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PAGE = "lab"

#: The run that the still figure shows: the project's own toy with a weak damping, one cycle and a bit.
STILL = {
    "learning_rate": 0.05,
    "alpha": 1.0,
    "beta": 1.0,
    "damping": 0.005,
    "quartic": 0.0,
}
STILL_START, STILL_STEPS = (0.01, -1.5), 200


def _polyline(
    values,
    left: float,
    top: float,
    width: float,
    height: float,
    low: float,
    high: float,
) -> str:
    """Points of an SVG polyline through ``values`` at equal distances, ``low`` at the bottom."""
    across = width / (len(values) - 1)
    return " ".join(
        f"{left + i * across:.1f},{top + height * (high - v) / (high - low):.1f}" for i, v in enumerate(values)
    )


def still_svg() -> str:
    """Inline SVG (720 by 430 units): x, sharpness and loss of the toy against the step, the stages shaded and named."""
    import numpy as np

    from eoslib.rules import GradientDescent
    from selfstab.theory import reduced

    rate, alpha, beta = STILL["learning_rate"], STILL["alpha"], STILL["beta"]
    x, y = (np.asarray(v, float) for v in reduced.iterate(*STILL_START, STILL_STEPS, **STILL))
    edge, delta = GradientDescent(rate).edge, float(reduced.radius(alpha=alpha, beta=beta))
    loss = (edge + y) * x**2 / 2 - alpha / beta * y + STILL["damping"] * y**2 / (2 * rate * beta)
    cut = reduced.stages(x, y, delta)
    left, width, height, top, gap = 56, 652, 104, 26, 24
    ends = [*cut.start[1:], STILL_STEPS]
    parts = []
    for begin, end, stage in zip(cut.start, ends, cut.entered, strict=True):
        at, wide = (
            left + begin / STILL_STEPS * width,
            (end - begin) / STILL_STEPS * width,
        )
        parts.append(
            f'<rect class="stage{stage}" x="{at:.1f}" y="{top}" width="{wide:.1f}" height="{3 * height + 2 * gap}"/>'
            f'<text class="ink" x="{at + wide / 2:.1f}" y="18" font-size="13" font-weight="600" '
            f'text-anchor="middle">{stage}</text>'
        )
    rows = (
        (
            "x",
            x,
            -1.08 * abs(x).max(),
            1.08 * abs(x).max(),
            ((delta, "δ", "hint"), (-delta, "−δ", "hint")),
        ),
        (
            "sharpness",
            edge + y,
            edge - 1.1 * abs(y).max(),
            edge + 1.1 * abs(y).max(),
            ((edge, "2/η", "threshold"),),
        ),
        (
            "loss",
            loss,
            loss.min() - 0.05 * np.ptp(loss),
            loss.max() + 0.08 * np.ptp(loss),
            ((0.0, "0", "hint"),),
        ),
    )
    for i, (name, values, low, high, marks) in enumerate(rows):
        y0 = top + i * (height + gap)
        for value, label, kind in marks:
            at = y0 + height * (high - value) / (high - low)
            parts.append(
                f'<line class="{kind}" x1="{left}" x2="{left + width}" y1="{at:.1f}" y2="{at:.1f}"/>'
                f'<text class="ink" x="{left - 8}" y="{at + 4:.1f}" font-size="12" text-anchor="end">{label}</text>'
            )
        parts.append(
            f'<polyline class="gd" points="{_polyline(values, left, y0, width, height, low, high)}"/>'
            f'<line class="axis" x1="{left}" x2="{left + width}" y1="{y0 + height}" y2="{y0 + height}"/>'
            f'<text class="ink" x="{left + 6}" y="{y0 + 14}" font-size="13" font-weight="600">{name}</text>'
        )
    bottom = top + 3 * height + 2 * gap
    for step in range(0, STILL_STEPS + 1, 50):
        at = left + step / STILL_STEPS * width
        parts.append(
            f'<text class="ink" x="{at:.1f}" y="{bottom + 17}" font-size="12" text-anchor="middle">{step}</text>'
        )
    parts.append(
        f'<text class="ink" x="{left + width / 2}" y="{bottom + 36}" font-size="13" text-anchor="middle">step t</text>'
    )
    title = "The four stages of self-stabilization on the toy loss"
    words = (
        "Three curves against the step. First the sharpness climbs through 2/η while x is tiny; then x, changing sign "
        "at every step, grows past δ; the sharpness falls back below 2/η while x is at its largest; x shrinks, and the "
        "climb begins again. The loss shows one spike, where x is large."
    )
    return (
        f'<svg viewBox="0 0 720 {bottom + 44}" role="img" aria-labelledby="lab-still-title lab-still-words">'
        f'<title id="lab-still-title">{escape(title)}</title><desc id="lab-still-words">{escape(words)}</desc>'
        f"{''.join(parts)}</svg>"
    )


class LabDirective(SphinxDirective):
    """Where the lab goes: of one direction, of two (``lab-pair``), or of maps small enough to solve (``lab-maps``)."""

    def run(self) -> list[nodes.Node]:
        words = (
            "This page is interactive and needs scripts, which are switched off here. The still figure further down "
            "shows the four stages, and the text says how to read them."
        )
        if self.name != "lab":
            part = {"lab-pair": "map of two directions", "lab-maps": "part on maps small enough to solve"}[self.name]
            words = f"The {part} is interactive too and needs scripts."
        return [
            nodes.raw(
                "",
                f'<div id="{self.name}" class="lab wide"><noscript><p>{words}</p></noscript></div>',
                format="html",
            ),
        ]


class StillDirective(SphinxDirective):
    """The four stages as inline SVG, with its caption as content."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        caption, messages = self.state.inline_text(" ".join(self.content), self.lineno)
        return [
            nodes.raw(
                "",
                f'<figure class="lab-still">{still_svg()}<figcaption>',
                format="html",
            ),
            nodes.paragraph("", "", *caption, *messages),
            nodes.raw("", "</figcaption></figure>", format="html"),
        ]


def add_scripts(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """The lab's scripts and style on its own page, and on no other."""
    if pagename == PAGE:
        for style in ("vendor/uplot/uplot.min.css", "plots.css", "lab.css"):
            app.add_css_file(style)
        for script in ("vendor/uplot/uplot.iife.min.js", "widgets.js", "picture.js", "lab-dynamics.js", "lab.js"):
            app.add_js_file(script, loading_method="defer")


def setup(app: Sphinx) -> dict:
    app.add_directive("lab", LabDirective)
    app.add_directive("lab-pair", LabDirective)
    app.add_directive("lab-maps", LabDirective)
    app.add_directive("lab-still", StillDirective)
    app.connect("html-page-context", add_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
