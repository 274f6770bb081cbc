"""The records' files: one per notebook, merged into the two per scale that the book, its tests and readers load.

A notebook writes ``results/<scale>/records/<notebook>.json``; :func:`collect` merges those into ``claims.json`` and
``figures.json``, and :func:`load` reads them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import h5py

from selfstab.records.claims import CLAIM_FIELDS
from selfstab.records.paths import build_scale, replacing, results_root

#: Files of a figure: two vector formats, a picture, and the numbers that it draws.
FIGURE_FILES = ("svg", "pdf", "png", "csv")
FIGURE_FIELDS = ("id", "notebook", *FIGURE_FILES, "caption", "alt", "provenance")
PROVENANCE_FIELDS = (
    "setting", "scale", "seed", "commit", "library_digest", "versions", "device", "threads", "seconds",
    "data_hash", "date",
)  # fmt: skip
FIELDS = {"claims": CLAIM_FIELDS, "figures": FIGURE_FIELDS}


class RecordError(ValueError):
    """Records are absent or do not follow the schema; the message says what to do."""


def write_json(target: Path, content) -> None:
    """Write JSON atomically: a reader sees the old file or the new one, never a part."""
    with replacing(target) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _check(entries: Iterable[dict], fields: Iterable[str], where: str) -> None:
    for entry in entries:
        if missing := [field for field in fields if field not in entry]:
            raise RecordError(f"{where} {entry.get('id', '?')!r} lacks {', '.join(missing)}")


def check_record(record: dict) -> None:
    """Check that a notebook's record has every field of claims, figures and provenance.

    Raises:
        RecordError: if a field is missing, naming notebook, entry and field.
    """
    for kind, fields in FIELDS.items():
        _check(record[kind], fields, f"{record['notebook']}: {kind}")
    origins = [{"id": figure["id"]} | figure["provenance"] for figure in record["figures"]]
    _check(origins, PROVENANCE_FIELDS, f"{record['notebook']}: provenance of")


def collect(scale: str) -> tuple[list[dict], list[dict]]:
    """Merge the notebooks' records of a scale into ``claims.json`` and ``figures.json``; return both lists.

    Raises:
        RecordError: if a record breaks the schema, or two notebooks use one id.
    """
    folder = results_root() / scale
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((folder / "records").glob("*.json"))]
    gathered = _merged(records)
    for kind, entries in gathered.items():
        ids = [entry["id"] for entry in entries]
        if twice := sorted({id for id in ids if ids.count(id) > 1}):
            raise RecordError(f"{kind} ids used by two notebooks: {', '.join(twice)}")
    for record in records:
        check_record(record)
    for kind, entries in gathered.items():
        write_json(folder / f"{kind}.json", entries)
    return gathered["claims"], gathered["figures"]


def damaged(scale: str, notebooks: Iterable[str]) -> dict[Path, str]:
    """Return the files of a scale that are there but do not serve, each with the reason.

    These are executed notebooks and records that cannot be read or whose figures are absent, and merged records that
    do not hold what the notebooks recorded.
    """
    folder, found, records = results_root() / scale, {}, []
    for name in sorted(notebooks):
        record, executed = folder / "records" / f"{name}.json", folder / "notebooks" / f"{name}.ipynb"
        for file, check in ((record, check_record), (executed, lambda content: content["cells"])):
            try:
                check(content := json.loads(file.read_text(encoding="utf-8")))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError):
                found[file] = "it cannot be read"
                continue
            if file == record:
                records.append(content)
    for record in records:
        places = [folder / figure[kind] for figure in record["figures"] for kind in FIGURE_FILES]
        if absent := [place.name for place in places if not place.is_file() or not place.stat().st_size]:
            found[folder / "records" / f"{record['notebook']}.json"] = f"{absent[0]} is missing"
    for kind in FIELDS:
        with contextlib.suppress(FileNotFoundError):
            try:
                if json.loads((folder / f"{kind}.json").read_text(encoding="utf-8")) == _merged(records)[kind]:
                    continue
            except ValueError:
                pass
            found[folder / f"{kind}.json"] = "it does not hold what the notebooks recorded"
    return found


def _merged(records: list[dict]) -> dict[str, list[dict]]:
    return {kind: [entry for record in records for entry in record[kind]] for kind in FIELDS}


@dataclasses.dataclass(frozen=True)
class Records:
    """Claims and figures of one scale, in the order in which the notebooks recorded them."""

    scale: str  # "test", "quick" or "paper"
    folder: Path  # where they were read from: results/<scale>
    claims: list[dict]  # each with at least CLAIM_FIELDS
    figures: list[dict]  # each with at least FIGURE_FIELDS

    def figure_file(self, figure: dict, kind: str) -> Path:
        """Return a file of a figure, of a kind in :data:`FIGURE_FILES`.

        Raises:
            RecordError: if the record names a file that does not exist.
        """
        path = self.folder / "figures" / figure["notebook"] / f"{figure['id']}.{kind}"
        if not path.is_file():
            raise RecordError(f"the record of figure {figure['id']!r} names {path}, which is absent: run `make book`")
        return path


def load(scale: str | None = None, root: Path | None = None) -> Records:
    """Load the merged records of a scale (by default the build's) from under the root of all results.

    Raises:
        RecordError: if a file is absent or malformed; the message names it and says what to run.
    """
    scale = scale or build_scale()
    folder = (root or results_root()) / scale
    return Records(scale, folder, *(_read(folder / f"{kind}.json", kind) for kind in FIELDS))


def _read(path: Path, kind: str) -> list[dict]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(
            f"{path} is not there: the notebooks have not run at this scale. Run `make book` (it runs them first), "
            "or set EOSLIB_BOOK_SCALE and EOSLIB_RESULTS to records that exist."
        ) from None
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} is not valid JSON ({error}); delete it and run `make book`") from None
    if not isinstance(entries, list):
        raise RecordError(f"{path} must hold a list, got {type(entries).__name__}")
    _check(entries, FIELDS[kind], f"{path}: {kind}")
    return entries


def mutants(root: Path) -> dict | None:
    """Return what ``make mutants`` recorded under the root of all results, or None if it has not run."""
    file = root / "mutants.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def recorded_seconds(root: Path) -> float:
    """Return the computing time of all recorded runs, under the root of all results."""
    seconds = 0.0
    for file in (root / "paper").glob("*.nc"):
        with h5py.File(file) as run:
            seconds += run.attrs["seconds"].item()
    return seconds
