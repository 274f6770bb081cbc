"""The book's own Sphinx extension: quoted numbers, generated pages and local scripts.

At the start of a build it loads the records (``selfstab.records``) into MyST substitutions, so that prose quotes
computed numbers and an undefined name fails the build; copies the figures into ``_generated/``; and takes MathJax and
the text fonts out of pinned packages, because nothing of third parties is committed.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

# The library and the companion whose words and docstrings the book shows are those beside it.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import api
import directives
import vendored

from selfstab.records import store
from selfstab.records.claims import UNTESTED, holds
from selfstab.records.paths import recorded_root
from selfstab.records.words import as_text

#: A formula within a line, and the punctuation right after it.
FORMULA_AND_MARK = re.compile(r'(<span class="math notranslate nohighlight">\\\([^<]*\\\)</span>[.,;:!?)]+)')


def copy_figures(found: store.Records, target: Path) -> None:
    """Copy every recorded figure of the shown scale to ``_generated/figures/<notebook>/<id>.{svg,pdf,png,csv}``."""
    for figure in found.figures:
        folder = target / "figures" / figure["notebook"]
        folder.mkdir(parents=True, exist_ok=True)
        for kind in store.FIGURE_FILES:
            shutil.copyfile(found.figure_file(figure, kind), folder / f"{figure['id']}.{kind}")


def substitutions(records: store.Records) -> dict[str, str]:
    """Return what prose may quote: ``{{ claim_<id>_measured }}`` and its siblings, and a few totals.

    Dashes of an id become underscores.  A name that is not here fails the build.
    """
    recorded = [claim["recorded"] for claim in records.claims if "recorded" in claim]
    nulls = [null for claim in [*records.claims, *recorded] for null in claim.get("nulls", ())]
    names = {
        "book_scale": records.scale,
        "claims_beside_nulls": str(sum(bool(claim.get("nulls")) for claim in records.claims)),
        "nulls_total": str(len(nulls)),
        "nulls_passing": str(sum(map(holds, nulls))),
        "figures_total": str(len(records.figures)),
        "recorded_hours": f"{store.recorded_seconds(recorded_root()) / 3600:.1f}",
    }
    for which, judged in (("claims", records.claims), ("recorded", recorded)):
        names |= {f"{which}_total": str(len(judged)), f"{which}_holding": str(sum(map(holds, judged)))}
        names[f"{which}_untested"] = str(sum(each["verdict"] == UNTESTED for each in judged))
    for claim in records.claims:
        stem = f"claim_{claim['id'].replace('-', '_')}"
        for key in ("sentence", "quantity", "predicted", "measured", "spread", "tolerance", "verdict"):
            names[f"{stem}_{key}"] = as_text(claim[key])
    return names


def unjudged(records: store.Records, source: Path) -> dict[str, str]:
    """Return a dash for each number of a claim that prose quotes: at test scale some runs are too short for theirs."""
    if records.scale != "test":
        return {}
    pages = (page.read_text(encoding="utf-8") for page in source.glob("*.md"))
    return {name: "–" for page in pages for name in re.findall(r"{{ (claim_\w+) }}", page)}


def prepare(app: Sphinx, config) -> None:
    """Before anything is read: records into substitutions and figures, MathJax and fonts into the assets."""
    source = Path(app.srcdir)
    vendored.take_scripts(source / "_assets")
    if "book.css" in config.html_css_files:  # which asks for them
        vendored.take_fonts(source / "_assets")
    try:
        found = store.load()
        shutil.rmtree(source / "_generated", ignore_errors=True)
        copy_figures(found, source / "_generated")
    except store.RecordError as error:
        raise ExtensionError(str(error)) from None
    config.myst_substitutions = unjudged(found, source) | config.myst_substitutions | substitutions(found)
    config.eosbook_records = found


def launch_buttons(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Links that open a chapter's notebook on Colab or Binder, where GitHub's workflow tells the build what it is."""
    server, name = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    if not (server and name and pagename.startswith("chapters/") and "header_buttons" in context):
        return
    branch, notebook = os.environ.get("GITHUB_REF_NAME") or "main", f"{pagename.removeprefix('chapters/')}.ipynb"
    addresses = {
        "Colab": f"https://colab.research.google.com/github/{name}/blob/{branch}/notebooks/{notebook}",
        "Binder": f"https://mybinder.org/v2/gh/{name}/{branch}?urlpath=lab/tree/notebooks/{notebook}",
        "Source": f"{server}/{name}/blob/{branch}/notebooks/{notebook}",
    }
    buttons = [{"type": "link", "text": text, "url": address} for text, address in addresses.items()]
    group = {"type": "group", "tooltip": "Run this chapter", "icon": "fas fa-rocket", "label": "launch-buttons"}
    context["header_buttons"].append(group | {"buttons": buttons})


#: Style sheets and scripts of extensions, by a part of their names, and the mark of a page that needs them.
NEEDED_BY = {"sphinx-design": "sd-", "design-tabs": "sd-tab", "mystnb": 'class="cell', "proof.css": 'class="proof'}


def only_what_is_used(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Leave out the files of extensions, and the 2 MB of MathJax, where a page has no use for them."""
    formulas, body = app.env.get_domain("math").data["has_equations"].get(pagename), context.get("body") or ""

    def used(file) -> bool:
        name = str(file.filename)
        if name.endswith(app.config.mathjax_path) or "MathJax" in (file.attributes.get("body") or ""):
            return bool(formulas)  # MathJax's configuration is a script without a file
        return all(mark in body for part, mark in NEEDED_BY.items() if part in name)

    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context.get(kind, ()) if used(file)]


def repair_markup(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Repair markup: two lists that are none to a screen reader, ids that stand twice, commas apart from formulas."""

    def parameters(found: re.Match) -> str:
        lines = found.group(1).replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
        return f'<span class="sig-lines">{lines}</span>'

    body = re.sub(r'<dl>\n((?:<dd><em class="sig-param">.*?</dd>\n)+)</dl>', parameters, context.get("body") or "")
    body = re.sub(r' id="(?:exercise|solution)-content"', "", body)  # the same for every exercise of a page
    # After a formula, a box to the browser, a line may break: before its comma, too.
    body = re.sub(FORMULA_AND_MARK, r'<span class="together">\1</span>', body)
    context["body"] = body.replace('<div role="list" class="citation-list">', '<div class="citation-list">')


def setup(app: Sphinx) -> dict:
    app.add_config_value("eosbook_records", None, "", types=(store.Records,))
    # Jupyter Book always passes this option of an extension that is not loaded here.
    app.add_config_value("comments_config", {}, "", types=(dict,))
    # Before MyST turns its options into a parser configuration.
    app.connect("config-inited", prepare, priority=100)
    app.connect("html-page-context", only_what_is_used, priority=900)
    app.connect("html-page-context", repair_markup)
    app.connect("html-page-context", launch_buttons, priority=900)
    directives.setup(app)
    api.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
