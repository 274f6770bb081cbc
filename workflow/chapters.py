"""Executed notebooks become chapters: figures with caption, alt text, provenance and links to what made them."""

from __future__ import annotations

import copy
import json
import pathlib
import re
import shutil

import nbformat

PICTURES = ("image/png", "image/svg+xml", "image/jpeg")


class ChapterError(RuntimeError):
    """An executed notebook cannot stand in the book; the message says which, and why."""


def escaped(text: str) -> str:
    r"""Plain text for MyST.

    >>> print(escaped("A_b*"))
    A\_b\*
    """
    return re.sub(r"([\\`*_{}\[\]<>$#|~^])", r"\\\1", text)


def duration(seconds: float) -> str:
    """A time for a reader.

    >>> duration(3.21), duration(41.4), duration(200), duration(7500)
    ('3.2 s', '41 s', '3 min 20 s', '2 h 5 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def run_files(root: pathlib.Path, provenance: dict) -> list[pathlib.Path]:
    """Run files behind a figure, as far as they are there."""
    scales = [scale.strip() for scale in provenance["scale"].split(",")]
    files = [root / scale / f"{key}.nc" for key in provenance["setting"] for scale in scales]
    return [file for file in files if file.is_file()]


def provenance_line(figure: dict, runs: list[pathlib.Path]) -> str:
    """One small line under a figure: what made it, when and where; its files."""
    made = figure["provenance"]
    seeds = made["seed"] if isinstance(made["seed"], list) else [made["seed"]]
    threads = f"{made['threads']} thread" + ("s" if made["threads"] != 1 else "")
    facts = [
        f"{made['scale']} scale",
        f"seed {', '.join(map(str, seeds))}",
        f"{made['device']}, {threads}",
        f"{duration(float(made['seconds']))} of computing",
        f"commit {made['commit']}",
        f"library {made['library_digest']}",
    ]
    picture = f"/_generated/figures/{figure['notebook']}/{figure['id']}"
    links = [
        f"[SVG](path:{picture}.svg)",
        f"[PNG](path:{picture}.png)",
        f"[executed notebook](path:downloads/{figure['notebook']}.ipynb)",
        *(f"[{escaped(run.stem)}](path:downloads/{run.parent.name}/{run.name})" for run in runs),
    ]
    return f":::{{div}} provenance\n{escaped(' · '.join(facts))}\n\nFiles: {' · '.join(links)}\n:::"


def without_duplicate(cells: list) -> list:
    """Papermill leaves the default parameters and the injected ones: keep what the notebook ran with."""
    tags = [cell.metadata.get("tags", []) for cell in cells]
    if not any("injected-parameters" in tag for tag in tags):
        return cells
    kept = [cell for cell, tag in zip(cells, tags, strict=True) if "parameters" not in tag]
    for cell in kept:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata["tags"] = ["injected-parameters", "hide-input"]
            cell.source = cell.source.removeprefix("# Parameters\n")
    return kept


def links_to(chapters: set[str], text: str, said: list[str]) -> str:
    """Markdown whose links to notebooks that the book lacks are plain words; those are added to ``said``."""

    def link(found: re.Match) -> str:
        if found.group(2) in chapters:
            return found.group(0)
        said.append(found.group(2))
        return found.group(1)

    return re.sub(r"(?<!!)\[([^\]]*)\]\(([\w-]+)\.ipynb(?:#[^)]*)?\)", link, text)


def chapter(notebook, name: str, figures: list[dict], root: pathlib.Path, chapters: set[str]):
    """The chapter of an executed notebook, and the run files that it offers.

    Args:
        notebook: The executed notebook, as nbformat reads it; it is not changed.
        name: Its stem.
        figures: Records of ``figures.json``.
        root: Root of all results.
        chapters: Names of all chapters.

    Returns:
        The chapter's notebook; the run files behind its figures; the absent notebooks that it links to.

    Raises:
        ChapterError: on a cell that failed, a picture that no record describes, or two figures in one cell.
    """
    notebook, known = (
        copy.deepcopy(notebook),
        {figure["id"]: figure for figure in figures if figure["notebook"] == name},
    )
    cells, offered, missing = [], [], []
    for cell in without_duplicate(notebook.cells):
        cells.append(cell)
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "markdown":
            cell.source = links_to(chapters, cell.source, missing)
            continue
        # Warnings and progress bars belong to the log; they name places of the machine that ran.
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        shown = []
        for output in cell.outputs:
            if output.output_type == "error":
                raise ChapterError(f"{name}: a cell ended in {output.ename}: {output.evalue}")
            if any(kind in output.get("data", {}) for kind in PICTURES):
                shown.append(output.metadata.get("eoslib", {}).get("figure"))
        if not shown:
            continue
        if len(shown) > 1:
            raise ChapterError(
                f"{name}: one cell shows {len(shown)} pictures ({shown}); a figure needs a cell of its own"
            )
        if shown[0] not in known:
            raise ChapterError(f"{name}: a picture without a record (id {shown[0]!r}); show it by `page.figure`")
        figure = known[shown[0]]
        cell.metadata["mystnb"] = dict(cell.metadata.get("mystnb", {})) | {
            "image": {"alt": figure["alt"]},
            "figure": {"caption": figure["caption"], "name": f"fig-{figure['id']}"},
        }
        runs = run_files(root, figure["provenance"])
        offered += runs
        cells.append(nbformat.v4.new_markdown_cell(provenance_line(figure, runs), id=f"provenance-{figure['id']}"[:64]))
    notebook.cells = cells
    # Sentences that a cell shows may hold formulas.
    notebook.metadata["mystnb"] = {"render_markdown_format": "myst"} | notebook.metadata.get("mystnb", {})
    for place in ("input_path", "output_path", "environment_variables"):
        notebook.metadata.get("papermill", {}).pop(place, None)
    return notebook, list(dict.fromkeys(offered)), list(dict.fromkeys(missing))


def write_all(root: pathlib.Path, scale: str, target: pathlib.Path) -> list[str]:
    """Write every executed notebook of a scale as a chapter into ``target``, with what its figures offer for download.

    Args:
        root: Root of all results.
        scale: ``"test"``, ``"quick"`` or ``"paper"``.
        target: Folder of the chapters; it is made afresh.

    Returns:
        Names of the chapters.

    Raises:
        ChapterError: see :func:`chapter`.
    """
    figures = json.loads((root / scale / "figures.json").read_text())
    sources = {file.stem: file for file in sorted((root / scale / "notebooks").glob("[0-9a-zA-Z]*.ipynb"))}
    sources = {name: file for name, file in sources.items() if not name.endswith(".failed")}
    shutil.rmtree(target, ignore_errors=True)
    (target / "downloads").mkdir(parents=True)
    for name, file in sources.items():
        notebook, runs, missing = chapter(nbformat.read(file, 4), name, figures, root, set(sources))
        for absent in missing:
            print(f"{name} speaks of {absent}, which is not there: shown as plain words")
        nbformat.write(notebook, target / f"{name}.ipynb")
        shutil.copyfile(file, target / "downloads" / file.name)
        for run in runs:
            (target / "downloads" / run.parent.name).mkdir(exist_ok=True)
            shutil.copyfile(run, target / "downloads" / run.parent.name / run.name)
    return list(sources)
