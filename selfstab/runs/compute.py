"""Computation of runs: from a setting to its file, resumed after a kill, and only once if several processes ask.

``python -m selfstab.runs --name NAME --scale SCALE`` computes one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys

import jax
import xarray as xr
from filelock import FileLock

from selfstab import experiment, settings
from selfstab.records.paths import results_root
from selfstab.runs.checkpoints import Checkpoints
from selfstab.runs.files import load, path, stale, write
from selfstab.runs.provenance import environment, now
from selfstab.settings import Setting
from selfstab.source import numerical_digest


def compute(setting: Setting, seed: int = 0, *, progress: bool = True, folder=None) -> xr.Dataset:
    """Compute the run of a setting and seed, or finish the one that was killed; write its file and return it.

    The numbers are those of a run that was never killed.  If two processes ask for the same run, it is computed once.
    """
    key, digest = setting.key(seed), setting.digest()
    checkpoints = results_root() / "checkpoints" / f"{setting.scale}-{key}-{digest}-{numerical_digest()}"
    checkpoints.parent.mkdir(parents=True, exist_ok=True)
    # A second process that computes the same run waits here, then finds it done.
    with FileLock(checkpoints.with_name(checkpoints.name + ".lock")):
        if stale(setting, seed) is None:
            return load(path(setting, seed))
        prepared = experiment.prepare(setting, seed, folder=folder)
        keeper = Checkpoints(checkpoints)
        io = dict(progress=progress, restore=keeper.restore_approach, save=keeper.save_approach)
        approach = experiment.approach(setting, seed, prepared, **io)
        io = dict(progress=progress, restore=keeper.restore, save=keeper.save)
        data = experiment.run(setting, seed, prepared, approach, **io)
        data.attrs |= environment() | {
            "setting": json.dumps(dataclasses.asdict(setting)),
            "setting_digest": digest,
            "key": key,
            "scale": setting.scale,
            "seed": seed,
            "library_digest": numerical_digest(),
            "seconds": keeper.seconds(),
            "date": now(),
            "data_hash": prepared.train.digest,
            "parameters": prepared.objective.size,
        }
        write(data, path(setting, seed))
        shutil.rmtree(checkpoints, ignore_errors=True)
        return load(path(setting, seed))


def load_or_run(setting: Setting, seed: int = 0, *, progress: bool = True) -> xr.Dataset:
    """Load the run of a setting and seed, or compute it if its file is absent or out of date."""
    return load(path(setting, seed)) if stale(setting, seed) is None else compute(setting, seed, progress=progress)


def main(arguments: list[str] | None = None) -> int:
    """Compute one run file; ``--help`` lists the options."""
    parser = argparse.ArgumentParser(prog="python -m selfstab.runs", description="Compute one run file.")
    parser.add_argument("--name", required=True, help=f"one of {', '.join(settings.names())}")
    parser.add_argument("--scale", default="quick", choices=settings.SCALES)
    parser.add_argument("--seed", type=int, default=0)
    fields = {"learning_rate": float, "n": int, "tracked_steps": int}
    for field, kind in fields.items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=kind)
    chosen = parser.parse_args(arguments)
    overrides = {field: value for field in fields if (value := getattr(chosen, field)) is not None}
    # Runs that differ only in η or seed use the same compiled programs.
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(results_root() / "checkpoints" / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small programs add up to seconds
    setting = settings.get(chosen.name, chosen.scale, **overrides)
    why = stale(setting, chosen.seed) or "already computed"
    print(f"{setting.key(chosen.seed)} ({setting.scale}): {why}", file=sys.stderr)
    told = compute(setting, chosen.seed, progress=sys.stderr.isatty()).attrs
    print(f"{told['status']} (step {told['instability_step']}); {told['seconds']:.0f} s", file=sys.stderr)
    return 0
