"""Where results lie, and which scale a build of the book shows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def results_root() -> Path:
    """Return the root of all results: ``EOSLIB_RESULTS``, or ``results`` of the checkout or the working directory."""
    if folder := os.environ.get("EOSLIB_RESULTS"):
        return Path(folder)
    return (ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd()) / "results"


def build_scale() -> str:
    """Return the scale that this build of the book shows: ``EOSLIB_BOOK_SCALE``, or ``quick``."""
    return os.environ.get("EOSLIB_BOOK_SCALE") or "quick"


def run_files(root: Path, provenance: dict) -> list[Path]:
    """Return the run files behind a figure that exist under the root of all results."""
    scales = [scale.strip() for scale in provenance["scale"].split(",")]
    files = [root / scale / f"{key}.nc" for key in provenance["setting"] for scale in scales]
    return [file for file in files if file.is_file()]


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a place to write to, which then takes the name ``target``: a reader sees the old file or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
