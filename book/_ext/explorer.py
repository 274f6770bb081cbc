"""Recorded runs for the explorer: each exported as a plain script when the book is built, read by its page on demand.

Directive: ``{explorer}``.  It lists the runs of ``results/paper``, or those of ``results/quick`` where none is recorded
at paper scale; :data:`PANELS` is the table of what is drawn.  The numbers keep five significant digits.
"""

from __future__ import annotations

import hashlib
import json
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

PAGE = "explorer"
FOLDER = "runs"  # under _static of the built book

#: What is drawn, from top to bottom.  A curve is (variable of the run file, whose it is, said as); ``line`` is a level
#: drawn across (a variable or attribute), ``both`` its mirror image too; ``mean`` marks what two-step means smooth.
PANELS = (
    {
        "id": "loss",
        "title": "loss",
        "mean": True,
        "curves": (
            ("gd_loss", "gd", "gradient descent"),
            ("predicted_loss", "predicted", "prediction"),
            ("generalized_loss", "generalized", "generalized prediction"),
            ("constrained_loss", "constrained", "constrained trajectory"),
            ("flow_loss", "flow", "gradient flow"),
        ),
    },
    {
        "id": "sharpness",
        "title": "sharpness",
        "mean": True,
        "line": "edge",
        "said": "2/η",
        "curves": (
            ("gd_sharpness", "gd", "gradient descent"),
            ("predicted_sharpness", "predicted", "prediction"),
            ("generalized_sharpness", "generalized", "generalized prediction"),
            ("constrained_sharpness", "constrained", "constrained trajectory"),
            ("flow_sharpness", "flow", "gradient flow"),
        ),
    },
    {
        "id": "x",
        "title": "x, along the leading eigenvector",
        "line": "delta",
        "both": True,
        "said": "±δ",
        "curves": (
            ("x", "gd", "gradient descent"),
            ("predicted_x", "predicted", "prediction"),
            ("generalized_x", "generalized", "generalized prediction"),
        ),
    },
    {
        "id": "distance",
        "title": "distance to the constrained trajectory",
        "line": "delta",
        "said": "δ",
        "curves": (
            ("distance", "gd", "gradient descent"),
            ("predicted_distance", "predicted", "prediction"),
            ("generalized_distance", "generalized", "generalized prediction"),
            ("flow_distance", "flow", "gradient flow"),
        ),
    },
    {
        "id": "error",
        "title": "error of the prediction",
        "line": "delta",
        "said": "δ",
        "curves": (
            ("predicted_error", "predicted", "prediction"),
            ("generalized_error", "generalized", "generalized prediction"),
        ),
    },
)


def _numbers(values) -> list[float | None]:
    """Five significant digits each; None where a value is not finite."""
    import numpy as np

    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in np.asarray(values, float)]


def cycles(data) -> list[int]:
    """First steps of the self-stabilization cycles: entries into progressive sharpening, while δ exists."""
    import numpy as np

    from selfstab.theory import reduced

    squared = np.asarray(data["delta_squared"], float)
    good = np.isfinite(squared) & (squared > 0) & np.isfinite(np.asarray(data["x"], float))
    length = len(good) if good.all() else int(np.argmin(good))
    if length < 2:
        return []
    cut = reduced.stages(data["x"].values[:length], data["y"].values[:length], np.sqrt(squared[:length]))
    return [int(step) for step in cut.start[cut.entered == 1]]


def left(data, prediction: str) -> int:
    """First step at which a prediction's |x| exceeds ten times gradient descent's largest: it has left for good."""
    import numpy as np

    if f"{prediction}_x" not in data:
        return int(data.sizes["t"])
    size, largest = np.abs(np.asarray(data[f"{prediction}_x"])), np.nanmax(np.abs(np.asarray(data["x"])))
    return int(np.argmin(size <= 10 * largest)) if not (size <= 10 * largest).all() else len(size)


def export(data) -> dict:
    """One run as what the page reads: every curve of :data:`PANELS` that the file holds, δ, 2/η and the cycles.

    A prediction that has :func:`left` ends there: it would set the scale of every panel.
    """
    import numpy as np

    ends = {prediction: left(data, prediction) for prediction in ("predicted", "generalized")}
    series = {}
    for name in {curve[0] for panel in PANELS for curve in panel["curves"]}:
        if name not in data:
            continue
        dimension = data[name].dims[0]
        every = int(data[dimension][1] - data[dimension][0]) if data.sizes[dimension] > 1 else 1
        values = np.array(data[name], float)
        if (prediction := name.partition("_")[0]) in ends:
            values[ends[prediction] :] = np.nan
        series[name] = {"every": every, "values": _numbers(values)}
    squared = np.asarray(data["delta_squared"], float)
    delta = np.sqrt(np.where(squared > 0, squared, np.nan))
    return {
        "steps": int(data.sizes["t"]),
        "edge": float(f"{float(data.attrs['edge']):.12g}"),
        "delta": _numbers(delta),
        "cycles": cycles(data),
        "series": series,
    }


def title(attributes: dict) -> str:
    """A run in words: network, data, loss and learning rate."""
    from selfstab import settings

    setting = json.loads(attributes["setting"])
    words = (settings.WORDS.get(setting[field], setting[field]) for field in ("model", "dataset", "criterion"))
    return f"{', '.join(words)}, η = {setting['learning_rate']:g}, seed {int(attributes['seed'])}"


def provenance(attributes: dict) -> str:
    """Scale, size, machine, time and code of a run."""
    setting, threads = json.loads(attributes["setting"]), int(attributes["threads"])
    return "; ".join(
        (
            f"{attributes['scale']} scale",
            f"{setting['n']} samples, width {setting['width']}",
            f"instability at step {int(attributes['instability_step'])}",
            f"{attributes['device']}, {threads} thread{'' if threads == 1 else 's'}",
            f"{float(attributes['seconds']):.0f} s of computing",
            f"{attributes['date']}",
            f"commit {str(attributes['commit'])[:9]}",
            f"library {attributes['library_digest']}",
        )
    )


def files() -> list[Path]:
    """Run files: those recorded at paper scale, or, where there is none, those of quick scale."""
    from selfstab.records.paths import results_root

    for scale in ("paper", "quick"):
        found = sorted((results_root() / scale).glob("*.nc"))
        if found:
            return found
    return []


def load() -> list[dict]:
    """Every run that was followed beyond the instability: key, title, provenance, script.

    The longest come first, and those whose prediction diverged last.

    Raises:
        ExtensionError: where a run file is damaged, with the file's name.
    """
    from selfstab.runs import files as run_files

    runs = []
    for file in files():
        try:
            data = run_files.load(file)
        except run_files.SchemaError as error:
            raise ExtensionError(str(error)) from None
        if "t" not in data.sizes or "x" not in data:
            continue
        key = str(data.attrs["key"])
        text = json.dumps(export(data), separators=(",", ":"))
        script = f"(window.eosRuns ??= {{}})[{json.dumps(key)}] = {text};\n"
        shown = {
            "key": key,
            "title": title(data.attrs),
            "provenance": provenance(data.attrs),
            "file": f"{FOLDER}/{key}.js?v={hashlib.sha256(script.encode()).hexdigest()[:8]}",
            "script": script,
        }
        runs.append((int(data.attrs["ended_predicted"]) >= 0, -data.sizes["t"], shown))
    return [shown for *_, shown in sorted(runs, key=lambda run: run[:2])]


class ExplorerDirective(SphinxDirective):
    """The explorer's place on the page, with the list of runs and the table of panels as inert JSON."""

    def run(self) -> list[nodes.Node]:
        runs = self.config.explorer_runs
        if not runs:
            words = (
                "No recorded run is here yet: the notebooks have not been run on this machine. `make book` runs them."
            )
            return [nodes.note("", nodes.paragraph("", words))]
        listed = [{key: value for key, value in run.items() if key != "script"} for run in runs]
        text = json.dumps({"runs": listed, "panels": PANELS}, ensure_ascii=False).replace("<", "\\u003c")
        words = "The explorer needs scripts, which are switched off here; the chapters show the same runs as figures."
        return [
            nodes.raw(
                "",
                f'<div id="explorer" class="exp wide"><noscript><p>{escape(words)}</p></noscript></div>'
                f'<script type="application/json" id="explorer-data">{text}</script>',
                format="html",
            )
        ]


def prepare(app: Sphinx, config) -> None:
    config.explorer_runs = load()


def write(app: Sphinx, error: Exception | None) -> None:
    """The runs' scripts, into the built book."""
    if error or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static" / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for stray in folder.glob("*.js"):
        stray.unlink()
    for run in app.config.explorer_runs:
        (folder / f"{run['key']}.js").write_text(run["script"], encoding="utf-8")


def add_scripts(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """The explorer's scripts and style on its own page, and on no other."""
    if pagename == PAGE:
        app.add_css_file("explorer.css")
        app.add_js_file("picture.js", loading_method="defer")
        app.add_js_file("explorer.js", loading_method="defer")


def setup(app: Sphinx) -> dict:
    app.add_config_value("explorer_runs", [], "env", types=(list,))
    app.add_directive("explorer", ExplorerDirective)
    app.connect("config-inited", prepare)
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
