"""Snakemake inside a process on a leash, with the log in plain words, told which files no longer serve."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import time

import cluster
import snakemake_logger_plugin_plain as plain
from leash import leash

from selfstab.records.paths import recorded_root, results_root

ROOT = pathlib.Path(__file__).resolve().parent.parent


def unfit(scale: str, seed: int) -> dict[str, str]:
    """Files that are there but do not serve, with the reason that they themselves give.

    Snakemake compares with what it remembers of this folder and looks only at the files that it knows.  A run file may
    come from elsewhere (recorded, copied, checked out), any file may be damaged, and the names of figures are known
    only to the records of the notebooks that draw them.
    """
    from selfstab import chapters
    from selfstab.records import store
    from selfstab.runs import files

    notebooks = [file.stem for file in (ROOT / "notebooks").glob("*.ipynb")]
    found = store.damaged(scale, notebooks)
    for run in (run for notebook in notebooks for run in chapters.runs(notebook, scale)):
        setting, offset = run.setting(scale), seed + run.seed_offset
        path = files.path(setting, offset)
        if path.exists() and (why := files.stale(setting, offset)):
            found[path] = why
    return {os.path.relpath(path, ROOT): why for path, why in found.items()}


def tidy(results: pathlib.Path, *others: pathlib.Path) -> None:
    """Remove what killed processes left half-written, and give files from what the clock calls the future today's date.

    Content decides what runs again; but Snakemake takes a file younger than what was just made of it for a mistake.
    """
    now = time.time()
    for file in (file for folder in (results, *others) for file in folder.rglob("*")):
        with contextlib.suppress(OSError):
            if file.is_relative_to(results) and re.fullmatch(r"\..*(\.tmp|\.partial\.ipynb)", file.name):
                file.unlink()
            elif file.stat().st_mtime > now:
                os.utime(file, (now, now))


def accept(scale: str, seed: int, options: list[str]) -> dict[str, str]:
    """Accept the runs that a cluster wrote unattended; return the notebooks, to be executed again, with the reason.

    A run says by its own attributes of which setting and code it is, and was judged.  Of an executed notebook nobody
    can tell.
    """
    from selfstab import chapters

    written = {os.path.relpath(file, ROOT) for file in cluster.unattended(ROOT, results_root() / scale)}
    folder, names = results_root() / scale, [file.stem for file in (ROOT / "notebooks").glob("*.ipynb")]
    runs = {folder / f"{run.key(scale, seed)}.nc" for name in names for run in chapters.runs(name, scale)}
    serving = written & {os.path.relpath(run, ROOT) for run in runs} - plain.FORCED.keys()
    if serving:
        command = [sys.executable, "-m", "snakemake", *options, "--cores", "1", "--touch", "--", *sorted(serving)]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    executed = {os.path.relpath(folder / "notebooks" / f"{name}.ipynb", ROOT) for name in names}
    return dict.fromkeys(sorted(written & executed), "executed after its call had ended")


def main() -> int:
    """Start Snakemake; :mod:`make` calls ``engine.py TARGET SCALE SEED JOBS PROFILE``."""
    leash()
    target, scale, seed, jobs, profile = sys.argv[1:]
    tidy(results_root(), recorded_root(), ROOT / "notebooks")
    options = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(ROOT)]
    configured = ["--config", f"scale={scale}", f"seed={seed}"]
    plain.FORCED |= unfit(scale, int(seed))
    plain.FORCED |= accept(scale, int(seed), [*options, *configured])
    if profile != "default":
        cluster.begin(ROOT, results_root() / scale)

    from snakemake.cli import main as snakemake

    arguments = [*options, "--cores" if profile == "default" else "--jobs", jobs]
    arguments += ["--workflow-profile", str(ROOT / "workflow" / "profiles" / profile), "--logger", "plain"]
    arguments += configured
    arguments += ["--forcerun", *plain.FORCED] if plain.FORCED else []
    snakemake([*arguments, "--", target])
    return 0


if __name__ == "__main__":
    sys.exit(main())
