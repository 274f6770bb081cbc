"""Jobs of a SLURM cluster that go on after the call that submitted them ended, and what they wrote unattended.

On one machine a job ends with its call (``leash.py``).  A cluster's does not: its file may be whole while Snakemake's
record of it is an old one, or none.  So a call on a cluster notes what there is before it begins, and strikes the note
out at its end.  Where the next call finds a note, it knows which files were written since.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import time

POLL_SECONDS = 5.0


def jobs(root: pathlib.Path) -> list[str]:
    """Numbers of the user's jobs whose working folder is a checkout, waiting or running; none without SLURM."""
    if not shutil.which("squeue"):
        return []
    asked = subprocess.run(["squeue", "--me", "--noheader", "--format=%i|%Z"], capture_output=True, text=True)
    lines = (line.partition("|") for line in asked.stdout.splitlines())
    return [number for number, _, folder in lines if folder and pathlib.Path(folder).resolve() == root.resolve()]


def wait(root: pathlib.Path) -> None:
    """Wait, in words, until no job is left in a checkout: what it computes is then there, and computed once."""
    seen: set[str] = set()
    while at_work := jobs(root):
        if not seen.issuperset(at_work):
            print(f"{left(at_work)} Waiting for them.", file=sys.stderr, flush=True)
            seen |= set(at_work)
        time.sleep(POLL_SECONDS)


def left(numbers: list[str]) -> str:
    """The sentence about jobs that go on."""
    several = f"{len(numbers)} jobs of an earlier call go" if len(numbers) > 1 else "One job of an earlier call goes"
    return f"{several} on in the cluster's queue (to end: scancel {' '.join(numbers)})."


def _note(root: pathlib.Path, scale: str) -> pathlib.Path:
    return root / ".cache" / f"unattended-{scale}.json"


def _written(results: pathlib.Path) -> dict[str, int]:
    """When each run file and executed notebook of a scale was written."""
    files = [*results.glob("*.nc"), *results.glob("notebooks/*.ipynb")]
    return {str(file.relative_to(results)): file.stat().st_mtime_ns for file in files}


def begin(root: pathlib.Path, results: pathlib.Path) -> None:
    """Note what there is of a scale."""
    _note(root, results.name).write_text(json.dumps(_written(results)), encoding="utf-8")


def end(root: pathlib.Path, scale: str) -> None:
    """Strike the note out."""
    _note(root, scale).unlink(missing_ok=True)


def unattended(root: pathlib.Path, results: pathlib.Path) -> list[pathlib.Path]:
    """Files of a scale written since a call that did not reach its end; none without such."""
    note = _note(root, results.name)
    if not note.exists():
        return []
    before = json.loads(note.read_text(encoding="utf-8"))
    return [results / name for name, when in _written(results).items() if before.get(name) != when]
