"""Where results lie, and which scale a build of the book shows."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _around() -> Path | None:
    """Return the checkout around the working directory, if it lies in one."""
    here = Path.cwd()
    return next((place for place in (here, *here.parents) if _is_checkout(place)), None)


def _is_checkout(place: Path) -> bool:
    return (place / "Snakefile").is_file() and (place / "selfstab").is_dir()


def _results_of_checkout() -> Path:
    return ((ROOT if _is_checkout(ROOT) else _around()) or Path.cwd()) / "results"


def results_root() -> Path:
    """Return the root of all results: ``EOSLIB_RESULTS``, or else ``results`` of the checkout that the code is in.

    Where the code is an installed copy, that is the checkout around the working directory, or this directory itself.
    """
    return Path(os.environ.get("EOSLIB_RESULTS") or _results_of_checkout())


def recorded_root() -> Path:
    """Return the root under which recorded runs are read: that of all results, or else the checkout's ``results``.

    So a checkout that cannot be written is read, while what is made of it goes to ``EOSLIB_RESULTS``.
    """
    return root if (root := results_root()).joinpath("paper").is_dir() else _results_of_checkout()


def other_code() -> str | None:
    """Return a sentence if the code that runs is not that of the checkout around the working directory, else None."""
    around = _around()
    if around is None or around.resolve() == ROOT:
        return None
    return (
        f"selfstab runs from {ROOT}, not from the checkout {around}, where edits have no effect; to use it: "
        f"{shlex.join(['pip', 'install', '-e', f'{around}/eoslib', '-e', str(around)])}"
    )


def build_scale() -> str:
    """Return the scale that this build of the book shows: ``EOSLIB_BOOK_SCALE``, or ``quick``."""
    return os.environ.get("EOSLIB_BOOK_SCALE") or "quick"


def run_files(root: Path, provenance: dict) -> list[Path]:
    """Return the run files behind a figure that exist under the root of all results."""
    scales = [scale.strip() for scale in provenance["scale"].split(",")]
    roots = {scale: root if (root / scale).is_dir() else recorded_root() for scale in scales}
    files = [roots[scale] / scale / f"{key}.nc" for key in provenance["setting"] for scale in scales]
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
