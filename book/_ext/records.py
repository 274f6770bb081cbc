"""What the notebooks recorded: claims and figures of one scale, read from ``results/<scale>/``.

The book shows no number of its own.  Everything that it quotes comes from ``claims.json`` and ``figures.json``, which
the notebooks wrote when they ran.  Nothing here knows Sphinx.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import h5py

ROOT = Path(__file__).resolve().parents[2]
CLAIM_KEYS = [
    "id",
    "notebook",
    "sentence",
    "quantity",
    "predicted",
    "measured",
    "spread",
    "tolerance",
    "reason",
    "verdict",
]
FIGURE_FILES = ["svg", "pdf", "png", "csv"]
FIGURE_KEYS = ["id", "notebook", *FIGURE_FILES, "caption", "alt", "provenance"]


class RecordError(Exception):
    """Records are absent or not of the agreed form; the message says what to do."""


def results_root() -> Path:
    """Root of all results: ``EOSLIB_RESULTS``, or ``results/`` beside the book."""
    return Path(os.environ.get("EOSLIB_RESULTS") or ROOT / "results")


def build_scale() -> str:
    """Scale that this build shows: ``EOSLIB_BOOK_SCALE``, or ``quick``."""
    return os.environ.get("EOSLIB_BOOK_SCALE") or "quick"


@dataclasses.dataclass(frozen=True)
class Records:
    """Claims and figures of one scale, in the order in which the notebooks recorded them.

    Attributes:
        scale: ``"test"``, ``"quick"`` or ``"paper"``.
        folder: Where they were read from (``results/<scale>``).
        claims: One mapping per claim, with at least :data:`CLAIM_KEYS`.
        figures: One mapping per figure, with at least :data:`FIGURE_KEYS`.
    """

    scale: str
    folder: Path
    claims: list[dict]
    figures: list[dict]

    def claim(self, identifier: str) -> dict | None:
        return next((claim for claim in self.claims if claim["id"] == identifier), None)

    def figure_file(self, figure: dict, kind: str) -> Path:
        """A file of a figure (of a kind in :data:`FIGURE_FILES`), as the notebook wrote it.

        Raises:
            RecordError: where the record names a file that is not there.
        """
        path = self.folder / "figures" / figure["notebook"] / f"{figure['id']}.{kind}"
        if not path.is_file():
            raise RecordError(
                f"the record of figure {figure['id']!r} promises {path}, which is not there: run `make book`"
            )
        return path


def _read(path: Path, keys: list[str]) -> list[dict]:
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
    for entry in entries:
        missing = [key for key in keys if key not in entry]
        if missing:
            raise RecordError(f"{path}: entry {entry.get('id', '?')!r} lacks {', '.join(missing)}")
    return entries


def load(scale: str | None = None, root: Path | None = None) -> Records:
    """Records of a scale.

    Raises:
        RecordError: where a file is absent or malformed, naming it and saying what to run.
    """
    scale = scale or build_scale()
    folder = (root or results_root()) / scale
    claims, figures = (
        _read(folder / "claims.json", CLAIM_KEYS),
        _read(folder / "figures.json", FIGURE_KEYS),
    )
    return Records(scale, folder, claims, figures)


def show(value, digits: int = 4) -> str:
    """A recorded value as text: so many significant digits for a float, ``–`` where there is none.

    >>> show(0.123456), show(1234567.0), show(2.0), show(3), show(None), show("never"), show(2e-7)
    ('0.1235', '1.235 × 10⁶', '2', '3', '–', 'never', '2 × 10⁻⁷')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(show(item) for item in value)
    if not isinstance(value, float):
        return str(value)
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    if not exponent:
        return mantissa.replace("-", "−")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.replace('-', '−')} × 10{raised}"


def with_spread(claim: dict) -> str:
    """Measured value and, where there is one, its spread over seeds."""
    measured = show(claim["measured"])
    return f"{measured} ± {show(claim['spread'], 2)}" if claim["spread"] else measured


def holds(claim: dict) -> bool:
    return claim["verdict"] == "holds"


def recorded_seconds(results: Path) -> float:
    """Computing time of all runs recorded at paper scale, under the root of all results."""
    spent = 0.0
    for file in (results / "paper").glob("*.nc"):
        with h5py.File(file) as run:
            spent += run.attrs["seconds"].item()
    return spent


def substitutions(records: Records) -> dict[str, str]:
    """Names that prose may quote: ``{{ claim_<id>_measured }}`` and its siblings, and a few totals.

    Dashes of an id become underscores.  A name that is not here fails the build.
    """
    names = {
        "book_scale": records.scale,
        "claims_total": str(len(records.claims)),
        "claims_holding": str(sum(holds(claim) for claim in records.claims)),
        "claims_failing": str(sum(not holds(claim) for claim in records.claims)),
        "figures_total": str(len(records.figures)),
        "recorded_hours": f"{recorded_seconds(records.folder.parent) / 3600:.1f}",
    }
    for claim in records.claims:
        stem = f"claim_{claim['id'].replace('-', '_')}"
        for key in (
            "sentence",
            "quantity",
            "predicted",
            "measured",
            "spread",
            "tolerance",
            "verdict",
        ):
            names[f"{stem}_{key}"] = show(claim[key])
    return names
