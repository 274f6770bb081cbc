"""Executed notebooks become chapters: figures with caption, alt text, provenance and links to what made them."""

from __future__ import annotations

import ast
import copy
import json
import pathlib
import re
import shutil

import nbformat

from eoslib.trajectories.variables import VARIABLES
from selfstab import source
from selfstab.records.paths import run_files
from selfstab.records.words import escaped, provenance_line

#: Which function computes a variable of a run file.
COMPUTED_BY = {row.name: f"eoslib.{row.source}" for row in VARIABLES if len(row.name) > 1}
#: Where functions draw, store and describe, and compute nothing that a figure shows.
NOT_NUMERICAL = tuple(f"selfstab.{name}" for name in ("figures", "page", "records", "runs", "settings", "chapters"))
#: But what is read off a run may be named in them alone.
DRAWING = ("selfstab.figures.", "selfstab.page.", "selfstab.runs.quantities")
#: What a line says to formatter and linter, not to a reader.
FOR_TOOLS = re.compile(r"  # (?:fmt: skip|noqa\b[^#\n]*)(?=\n|$)")
PICTURES = ("image/png", "image/svg+xml", "image/jpeg")


class ChapterError(RuntimeError):
    """An executed notebook cannot stand in the book; the message says which, and why."""


def bound(statement: ast.stmt) -> set[str]:
    """Names that a statement at a cell's top level gives a meaning to."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    stored = [node for node in ast.walk(statement) if isinstance(getattr(node, "ctx", None), ast.Store)]
    stored = [node.value if isinstance(node, ast.Subscript) else node for node in stored]  # a[i] = … gives a a meaning
    return {node.id for node in stored if isinstance(node, ast.Name)}


def origins(statements: list[ast.stmt]) -> dict[str, str]:
    """Names that are imported from the two packages, with what they stand for."""
    return {
        alias.asname or alias.name: f"{statement.module}.{alias.name}"
        for statement in statements
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").split(".")[0] in source.PACKAGES
        for alias in statement.names
    }


def drawn(statements: list[ast.stmt], places: dict[str, str]) -> list[ast.stmt]:
    """Functions of the drawing modules that statements call, and those that these call: what they read off a run."""
    found = []
    for node in (node for statement in statements for node in ast.walk(statement)):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        place = places.get(node.value.id, "")
        if place.startswith(DRAWING) and (file := source.file_of(place)):
            body = ast.parse(file.read_text(encoding="utf-8")).body
            called = [each for each in body if isinstance(each, ast.FunctionDef) and each.name == node.attr]
            found += [*called, *drawn(called, origins(body))]
    return found


def rests_on(cells: list[str]) -> list[str]:
    """Functions, by their dotted names, behind what the last of some cells shows.

    Its statements, and those of earlier cells that give their names a meaning, are searched for functions of the two
    packages and for variables of run files (:data:`COMPUTED_BY`).

    >>> rests_on(["from selfstab.theory import reduced", "x = reduced.orbit(1)", "plot(x, run.predicted_loss)"])
    ['selfstab.theory.reduced.orbit', 'eoslib.trajectories.prediction.predicted_step']
    """
    cells = [re.sub(r"^[%!].*", "", cell, flags=re.MULTILINE) for cell in cells]  # magics are no Python
    earlier = [statement for cell in cells[:-1] for statement in ast.parse(cell).body]
    ahead = ast.parse(cells[-1]).body
    used, meant = [], set()
    while ahead:
        used += ahead
        loaded = {node.id for statement in ahead for node in ast.walk(statement) if isinstance(node, ast.Name)} - meant
        meant |= loaded
        ahead = [statement for statement in earlier if statement not in used and bound(statement) & loaded]
    used = sorted(used, key=(earlier + used).index)
    places = origins(used)
    used += drawn(used, places)
    places = {name: place for name, place in places.items() if not place.startswith(NOT_NUMERICAL)}
    modules = {name for name, place in places.items() if source.file_of(place)}
    found = []
    for node in (node for statement in used for node in ast.walk(statement)):
        word = node.attr if isinstance(node, ast.Attribute) else node.value if isinstance(node, ast.Constant) else None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            if not node.attr.isupper():  # a table, which is no function
                found.append(f"{places[node.value.id]}.{word}")
        elif isinstance(node, ast.Name) and node.id in places.keys() - modules:
            found.append(places[node.id])
        elif isinstance(word, str) and word in COMPUTED_BY:
            found.append(COMPUTED_BY[word])
    return list(dict.fromkeys(found))


def short(runs: list[pathlib.Path]) -> list[str]:
    """Name run files in Markdown, seeds that follow another of their experiment by the seed alone.

    >>> short([pathlib.Path(f"a--eta0.1--seed{seed}.nc") for seed in (0, 1)])
    ['`a--eta0.1--seed0`, netCDF', '`seed1`']
    """
    named = [(run.parent, run.stem.rpartition("--")[0]) for run in runs]
    return [
        f"`{run.stem.rpartition('--')[2]}`" if name in named[:k] else f"`{run.stem}`, netCDF"
        for k, (run, name) in enumerate(zip(runs, named, strict=True))
    ]


def provenance(figure: dict, runs: list[pathlib.Path], functions: list[str]) -> str:
    """Small lines under a figure: what made it, when and where; its files; the source of what computed it."""
    picture = f"/_generated/figures/{figure['notebook']}/{figure['id']}"
    links = [
        *(f"[{kind.upper()}](path:{picture}.{kind})" for kind in ("svg", "pdf", "png")),
        f"[points drawn, CSV](path:{picture}.csv)",
        f"[executed notebook](path:downloads/{figure['notebook']}.ipynb)",
        *(
            f"[{name}](path:downloads/{run.parent.name}/{run.name})"
            for name, run in zip(short(runs), runs, strict=True)
        ),
    ]
    lines = [escaped(provenance_line(figure["provenance"], full=True)), f"Files: {' · '.join(links)}"]
    if functions:
        lines.append("Source: " + " · ".join(f"{{source}}`{name}`" for name in functions))
    return ":::{div} provenance\n" + "\n\n".join(lines) + "\n:::"


def without_duplicate(cells: list) -> list:
    """Papermill leaves the default parameters and the injected ones: keep what the notebook ran with."""
    tags = [cell.metadata.get("tags", []) for cell in cells]
    if not any("injected-parameters" in tag for tag in tags):
        return cells
    for cell, tag in zip(cells, tags, strict=True):
        if "injected-parameters" in tag:
            cell.metadata["tags"] = ["injected-parameters", "hide-input"]
            cell.source = cell.source.removeprefix("# Parameters\n")
    return [cell for cell, tag in zip(cells, tags, strict=True) if "parameters" not in tag]


def links_to(chapters: set[str], text: str, said: list[str]) -> str:
    """Markdown whose links to notebooks that the book lacks are plain words; those are added to ``said``."""

    def link(found: re.Match) -> str:
        if found.group(2) in chapters:
            return found.group(0)
        said.append(found.group(2))
        return found.group(1)

    return re.sub(r"(?<!!)\[([^\]]*)\]\(([\w-]+)\.ipynb(?:#[^)]*)?\)", link, text)


def links_into_book(text: str) -> str:
    """Markdown whose links to the book's pages, plain in a notebook, become the book's own.

    >>> links_into_book("a [set](../book/notation.md#def-set), [it](../book/api.md#eoslib.x.f), [lab](../book/lab.md)")
    'a set ({prf:ref}`def-set`), {py:obj}`it <eoslib.x.f>`, [lab](../lab.md)'
    """
    text = re.sub(r"\[([^\]]*)\]\(\.\./book/[\w-]+\.md#((?:def|thm)-[\w-]+)\)", r"\1 ({prf:ref}`\2`)", text)
    text = re.sub(r"\[`?([^\]`]*)`?\]\(\.\./book/api\.md#((?:eoslib|selfstab)\.[\w.]+)\)", r"{py:obj}`\1 <\2>`", text)
    return re.sub(r"\]\(\.\./book/([\w-]+\.md)", r"](../\1", text)


def with_exercises(cells: list, name: str) -> list:
    """Cells tagged ``exercise`` become numbered exercises, and those tagged ``solution`` after them a folded solution.

    Raises:
        ChapterError: on an exercise whose first line is not ``## Exercise: its title``, or a solution without exercise.
    """
    done, label, number, within = [], "", 0, False

    def directive(kind: str, end: str, *options: str):
        text = "\n".join([f"::::{{{kind}-{end}}} {label if end == 'start' else ''}".rstrip(), *options, "::::"])
        done.append(nbformat.v4.new_markdown_cell(text, id=f"{label}-{end}"[:64]))

    for cell in [*cells, None]:
        tags = cell.metadata.get("tags", []) if cell is not None else []
        if within and "solution" not in tags:
            directive("solution", "end")
        if "solution" in tags and not within:
            if not label:
                raise ChapterError(f"{name}: a cell tagged 'solution' comes before any tagged 'exercise'")
            directive("solution", "start", ":class: dropdown")
        within = "solution" in tags
        if "exercise" in tags:
            heading, _, text = cell.source.partition("\n")
            if not (title := re.fullmatch(r"#+ Exercise: (.+)", heading)):
                raise ChapterError(f"{name}: an exercise begins with '## Exercise: its title', got {heading!r}")
            number += 1
            label = f"exercise-{name}-{number}".replace("_", "-")
            body = f"::::{{exercise}} {title.group(1)}\n:label: {label}\n\n{text.strip()}\n::::"
            cell.source = body if number > 1 else f"## Exercises\n\n{body}"
        done += [cell] if cell is not None else []
    return done


def shown_figure(cell, name: str, known: dict[str, dict]) -> dict | None:
    """The record of the figure that an executed cell shows, if it shows one.

    Raises:
        ChapterError: on a cell that failed, or a figure without a record or a cell of its own.
    """
    shown = []
    for output in cell.outputs:
        if output.output_type == "error":
            raise ChapterError(f"{name}: a cell ended in {output.ename}: {output.evalue}")
        if any(kind in output.get("data", {}) for kind in PICTURES):
            shown.append(output.metadata.get("eoslib", {}).get("figure"))
    if len(shown) > 1:
        raise ChapterError(f"{name}: one cell shows {len(shown)} pictures ({shown}); a figure needs a cell of its own")
    if shown and any("text/markdown" in output.get("data", {}) for output in cell.outputs):
        raise ChapterError(f"{name}: a cell shows the picture {shown[0]!r} and a sentence; a figure needs its own cell")
    if shown and shown[0] not in known:
        raise ChapterError(f"{name}: a picture without a record (id {shown[0]!r}); show it by `page.figure`")
    return known[shown[0]] if shown else None


def chapter(notebook, name: str, figures: list[dict], root: pathlib.Path, chapters: set[str]):
    """The chapter of an executed notebook, the run files behind its figures, and the absent notebooks it links to.

    Args:
        notebook: The executed notebook, as nbformat reads it; it is not changed.
        name: Its stem.
        figures: Records of ``figures.json``.
        root: Root of all results.
        chapters: Names of all chapters.

    Raises:
        ChapterError: as :func:`shown_figure` and :func:`with_exercises`.
    """
    notebook, known = copy.deepcopy(notebook), {each["id"]: each for each in figures if each["notebook"] == name}
    cells, code, offered, missing = [], [], [], []
    for cell in without_duplicate(notebook.cells):
        cells.append(cell)
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "markdown":
            cell.source = links_into_book(links_to(chapters, cell.source, missing))
            continue
        code.append(cell.source)
        cell.source = FOR_TOOLS.sub("", cell.source)
        # Warnings and progress bars belong to the log; they name places of the machine that ran.
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        if not (figure := shown_figure(cell, name, known)):
            continue
        cell.metadata["mystnb"] = dict(cell.metadata.get("mystnb", {})) | {
            "image": {"alt": figure["alt"]},
            "figure": {"caption": figure["caption"], "name": f"fig-{figure['id']}"},
        }
        runs = run_files(root, figure["provenance"])
        offered += runs
        lines = provenance(figure, runs, rests_on(code))
        cells.append(nbformat.v4.new_markdown_cell(lines, id=f"provenance-{figure['id']}"[:64]))
    notebook.cells = with_exercises(cells, name)
    # Sentences that a cell shows may hold formulas.
    notebook.metadata["mystnb"] = {"render_markdown_format": "myst"} | notebook.metadata.get("mystnb", {})
    for place in ("input_path", "output_path", "environment_variables"):
        notebook.metadata.get("papermill", {}).pop(place, None)
    return notebook, list(dict.fromkeys(offered)), list(dict.fromkeys(missing))


def write_all(root: pathlib.Path, scale: str, target: pathlib.Path) -> list[str]:
    """Write a scale's executed notebooks as chapters into ``target``, made afresh, with what their figures offer.

    Returns the names of the chapters; ``root`` is the root of all results.

    Raises:
        ChapterError: as :func:`chapter`.
    """
    figures = json.loads((root / scale / "figures.json").read_text(encoding="utf-8"))
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
            folder = target / "downloads" / run.parent.name
            folder.mkdir(exist_ok=True)
            shutil.copyfile(run, folder / run.name)
    return list(sources)
