"""Computation of runs: from a setting to its file, resumed after a kill, and only once if several processes ask.

``python -m selfstab.runs --name NAME --scale SCALE`` computes one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
import sys

import jax
import numpy as np
import xarray as xr
from filelock import FileLock
from jax.experimental import multihost_utils

from selfstab import experiment, settings
from selfstab.records.paths import results_root
from selfstab.runs.checkpoints import Checkpoints
from selfstab.runs.files import load, path, stale, write
from selfstab.runs.provenance import environment, now
from selfstab.settings import Setting
from selfstab.source import numerical_digest


def _agreed(verdict: bool) -> bool:
    """Return the verdict of process 0, in every process that computes the run."""
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(verdict))) if jax.process_count() > 1 else verdict


def compute(
    setting: Setting, seed: int = 0, *, progress: bool = True, folder=None, devices: int | None = None
) -> xr.Dataset:
    """Compute the run of a setting and seed, or finish the one that was killed; write its file and return it.

    The numbers are those of a run that was never killed.  If two processes ask for the same run, it is computed once.
    ``devices`` share the samples: as many as divide them, by default.  Where JAX computes in several processes
    (``jax.distributed``), each calls this; process 0 alone locks, judges and writes, and all read the same files.
    Matrix products are in full float32, which accelerators round by default.  JAX has 64 bits where the setting asks.
    """
    double = jax.enable_x64(True) if setting.gradient_dtype == "float64" else contextlib.nullcontext()
    with jax.default_matmul_precision("highest"), double:
        return _compute(setting, seed, progress, folder, devices)


def _compute(setting: Setting, seed: int, progress: bool, folder, devices: int | None) -> xr.Dataset:
    key, digest = setting.key(seed), setting.digest()
    checkpoints = results_root() / "checkpoints" / f"{setting.scale}-{key}-{digest}-{numerical_digest()}"
    checkpoints.parent.mkdir(parents=True, exist_ok=True)
    # A second process that computes the same run waits here, then finds it done.
    first = jax.process_index() == 0
    with FileLock(checkpoints.with_name(checkpoints.name + ".lock")) if first else contextlib.nullcontext():
        if _agreed(first and stale(setting, seed) is None):
            return load(path(setting, seed))
        prepared = experiment.prepare(setting, seed, folder=folder, devices=devices)
        keeper = Checkpoints(checkpoints)
        io = dict(restore=keeper.restore_approach, save=keeper.save_approach if first else None)
        approach = experiment.approach(setting, seed, prepared, progress=progress and first, **io)
        io = dict(progress=progress and first, restore=keeper.restore, save=keeper.save if first else None)
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
            "devices": prepared.objective.shards,
            "processes": jax.process_count(),
        }
        if first:
            write(data, path(setting, seed))
            shutil.rmtree(checkpoints, ignore_errors=True)
        _agreed(True)  # written
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
    parser.add_argument("--devices", type=int, help="that share the samples; all that divide them if absent")
    parser.add_argument(
        "--distributed", nargs="*", metavar="…", help="one of several processes that compute the run together: "
        "HOST:PORT of process 0, how many there are, and the number of this one; nothing on a cluster that JAX knows",
    )  # fmt: skip
    chosen = parser.parse_args(arguments)
    if chosen.distributed is not None:
        if len(chosen.distributed) not in (0, 3):
            parser.error(f"--distributed takes HOST:PORT COUNT NUMBER, or nothing; got {' '.join(chosen.distributed)}")
        host, *counts = chosen.distributed or [None]
        jax.distributed.initialize(host, *map(int, counts))
    overrides = {field: value for field in fields if (value := getattr(chosen, field)) is not None}
    # Runs that differ only in η or seed use the same compiled programs.
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(results_root() / "checkpoints" / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small programs add up to seconds
    try:
        setting = settings.get(chosen.name, chosen.scale, **overrides)
    except ValueError as wrong:
        parser.error(str(wrong))
    why = stale(setting, chosen.seed) or "already computed"
    print(f"{setting.key(chosen.seed)} ({setting.scale}): {why}", file=sys.stderr)
    told = compute(setting, chosen.seed, progress=sys.stderr.isatty(), devices=chosen.devices).attrs
    print(f"{told['status']} (step {told['instability_step']}); {told['seconds']:.0f} s", file=sys.stderr)
    return 0
