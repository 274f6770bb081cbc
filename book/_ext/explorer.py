"""Recorded runs for the explorer: each exported as a plain script when the book is built, read by its page on demand.

Directive: ``{explorer}``.  It lists the runs of ``results/paper``, or those of ``results/quick`` where none is recorded
at paper scale; :data:`PANELS` is the table of what is drawn.  The numbers keep five significant digits.  uPlot, which
draws them, is copied out of the pinned package ``youplot``, whose own code is never run, and is never committed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from html import escape
from pathlib import Path

import numpy as np
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from selfstab import settings
from selfstab.records.paths import recorded_root, results_root
from selfstab.records.words import plural
from selfstab.runs import files as run_files
from selfstab.runs.quantities import cycles

PAGE = "explorer"
FOLDER = "runs"  # under _static of the built book

#: The trajectories, in the page's order.
WHO = {
    "gd": "gradient descent",
    "predicted": "prediction",
    "generalized": "generalized prediction",
    "constrained": "constrained trajectory",
    "flow": "gradient flow",
}
#: What is drawn, from top to bottom: of each trajectory the variable ``<trajectory>_<id>`` of the run file (gradient
#: descent's may be called ``<id>``), and a level across.  ``mean`` marks what two-step means smooth.
PANELS = (
    {"id": "loss", "title": "loss", "mean": True},
    {"id": "sharpness", "title": "sharpness", "mean": True, "level": "2/η"},
    {"id": "x", "title": "x, along the leading eigenvector", "level": "±δ"},
    {"id": "distance", "title": "distance to the constrained trajectory", "level": "δ"},
    {"id": "error", "title": "error of the prediction", "level": "δ"},
)


def numbers(values) -> list[float | None]:
    """Return five significant digits of each value, None where it is not finite."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in np.asarray(values, float)]


def left(data, prediction: str) -> int:
    """Return the first step at which a prediction's |x| exceeds ten times gradient descent's largest, or the length."""
    if f"{prediction}_x" not in data:
        return int(data.sizes["t"])
    inside = np.abs(data[f"{prediction}_x"].values) <= 10 * np.nanmax(np.abs(data["x"].values))
    return int(np.argmin(np.append(inside, False)))


def export(data) -> dict:
    """Return what the page reads of a run: the variables it draws with their words, δ, 2/η and the cycles.

    A prediction that has :func:`left` ends there, because it would set the scale of every panel.
    """
    series = {}
    for who, panel in itertools.product(WHO, PANELS):
        name = panel["id"] if who == "gd" and panel["id"] in data else f"{who}_{panel['id']}"
        if name in data:
            steps, values = data[data[name].dims[0]].values, np.array(data[name], float)
            if who in ("predicted", "generalized"):
                values[left(data, who) :] = np.nan
            words = {
                word: data[name].attrs[word] for word in ("long_name", "units", "symbol") if word in data[name].attrs
            }
            series[name] = {"every": int(np.diff(steps[:2]).sum()) or 1, "values": numbers(values)} | words
    squared = np.asarray(data["delta_squared"], float)
    return {
        "steps": int(data.sizes["t"]),
        "edge": float(f"{float(data.attrs['edge']):.12g}"),
        "delta": numbers(np.sqrt(np.where(squared > 0, squared, np.nan))),
        "cycles": cycles(data).tolist(),
        "series": series,
    }


def title(attributes: dict) -> str:
    """Return a run in words: network, data and their number, loss, learning rate and seed."""
    setting = json.loads(attributes["setting"])
    words = (settings.WORDS.get(setting[field], setting[field]) for field in ("model", "dataset", "criterion"))
    return f"{', '.join(words)}, n = {setting['n']:,}, η = {setting['learning_rate']:g}, seed {int(attributes['seed'])}"


def provenance(attributes: dict) -> str:
    """Return scale, size, machine, time and code of a run."""
    setting = json.loads(attributes["setting"])
    return (
        f"{attributes['scale']} scale; {setting['n']} samples, width {setting['width']}; "
        f"instability at step {int(attributes['instability_step'])}; "
        f"{attributes['device']}, {plural(int(attributes['threads']), 'thread')}; "
        f"{float(attributes['seconds']):.0f} s of computing; {attributes['date']}; "
        f"commit {str(attributes['commit'])[:9]}; library {attributes['library_digest']}"
    )


def load() -> list[dict]:
    """Return every run that was followed beyond the instability: key, title, provenance, file and script.

    They are those recorded at paper scale, or, where there is none, those of quick scale.  The longest come first, and
    those whose prediction diverged last.

    Raises:
        ExtensionError: where a run file is damaged, with the file's name.
    """
    runs = []
    places = recorded_root() / "paper", results_root() / "quick"
    paper, quick = (sorted(place.glob("*.nc")) for place in places)
    for file in paper or quick:
        try:
            data = run_files.load(file)
        except run_files.SchemaError as error:
            raise ExtensionError(str(error)) from None
        if "t" not in data.sizes or "x" not in data:
            continue
        key = str(data.attrs["key"])
        text = json.dumps(export(data), separators=(",", ":"))
        script = f"(window.eosRuns ??= {{}})[{json.dumps(key)}] = {text};\n"
        run = {
            "key": key,
            "title": title(data.attrs),
            "provenance": provenance(data.attrs),
            "file": f"{FOLDER}/{key}.js?v={hashlib.sha256(script.encode()).hexdigest()[:8]}",
            "script": script,
        }
        runs.append((int(data.attrs["ended_predicted"]) >= 0, -data.sizes["t"], run))
    return [run for *_, run in sorted(runs, key=lambda entry: entry[:2])]


class ExplorerDirective(SphinxDirective):
    """The explorer's place on the page, with the list of runs and the table of panels as inert JSON."""

    def run(self) -> list[nodes.Node]:
        if not self.config.explorer_runs:
            words = "No recorded run is here yet: the notebooks have not been run here. `make book` runs them."
            return [nodes.note("", nodes.paragraph("", words))]
        runs = [{key: value for key, value in run.items() if key != "script"} for run in self.config.explorer_runs]
        text = json.dumps({"runs": runs, "panels": PANELS, "who": WHO}, ensure_ascii=False).replace("<", "\\u003c")
        words = "The explorer needs scripts, which are switched off here; the chapters show the same runs as figures."
        html = (
            f'<div id="explorer" class="exp wide"><noscript><p>{escape(words)}</p></noscript></div>'
            f'<script type="application/json" id="explorer-data">{text}</script>'
        )
        return [nodes.raw("", html, format="html")]


def prepare(app: Sphinx, config) -> None:
    config.explorer_runs = load()


def write(app: Sphinx, error: Exception | None) -> None:
    """Write the runs' scripts into the built book."""
    if error or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static" / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for run in app.config.explorer_runs:
        (folder / f"{run['key']}.js").write_text(run["script"], encoding="utf-8")


def add_scripts(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Add the explorer's scripts and styles to its own page, and to no other."""
    if pagename == PAGE:
        for style in ("vendor/uplot/uplot.min.css", "plots.css", "explorer.css"):
            app.add_css_file(style)
        for script in ("vendor/uplot/uplot.iife.min.js", "widgets.js", "explorer.js"):
            app.add_js_file(script, loading_method="defer")


def setup(app: Sphinx) -> dict:
    app.add_config_value("explorer_runs", [], "env", types=(list,))
    app.add_directive("explorer", ExplorerDirective)
    app.connect("config-inited", prepare)
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
