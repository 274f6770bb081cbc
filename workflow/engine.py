"""Snakemake inside a process on a leash, with the log in plain words, told which run files no longer serve."""

from __future__ import annotations

import os
import pathlib
import sys

import snakemake_logger_plugin_plain as plain
from leash import leash

ROOT = pathlib.Path(__file__).resolve().parent.parent


def stale_runs(scale: str, seed: int) -> dict[str, str]:
    """Run files that are there but do not serve, with the reason that their own attributes give.

    Snakemake compares with what it remembers of this folder; a file that came from elsewhere (recorded, copied, checked
    out) is judged by what it says of itself.
    """
    from selfstab import chapters
    from selfstab.runs import files

    found = {}
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for run in chapters.runs(file.stem, scale):
            setting, offset = run.setting(scale), seed + run.seed_offset
            path = files.path(setting, offset)
            if path.exists() and (why := files.stale(setting, offset)):
                found[os.path.relpath(path, ROOT)] = why
    return found


def main() -> int:
    """Start Snakemake; :mod:`make` calls ``engine.py TARGET SCALE SEED JOBS``."""
    leash()
    target, scale, seed, jobs = sys.argv[1:]
    plain.FORCED |= stale_runs(scale, int(seed))

    from snakemake.cli import main as snakemake

    arguments = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(ROOT), "--cores", jobs]
    arguments += ["--workflow-profile", str(ROOT / "workflow" / "profiles" / "default"), "--logger", "plain"]
    arguments += ["--config", f"scale={scale}", f"seed={seed}"]
    arguments += ["--forcerun", *plain.FORCED] if plain.FORCED else []
    snakemake([*arguments, "--", target])
    return 0


if __name__ == "__main__":
    sys.exit(main())
