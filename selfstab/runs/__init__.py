"""Run files: one self-describing netCDF per setting and seed, made once, checked when loaded, resumed when killed."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import datetime
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import xarray as xr

from eoslib import diagnostics, experiments, settings, tracking
from eoslib.settings import Setting
from selfstab.records.paths import results_root as root

#: Modules whose code decides a run's numbers.
NUMERICAL = (
    "objective", "eigen", "geometry", "stable_set", "dynamics", "diagnostics", "tracking", "models", "criteria", "data",
    "experiments",
)  # fmt: skip
VERSIONED = ("jax", "jaxlib", "flax", "optax", "numpy", "xarray", "matplotlib")
REQUIRED_ATTRIBUTES = (
    "setting", "setting_digest", "key", "scale", "seed", "library_digest", "versions", "device", "threads", "seconds",
    "date", "data_hash", "status", "instability_step", "learning_rate", "edge", "commit",
)  # fmt: skip
REQUIRED_VARIABLES = ("approach_loss", "check_step", "check_sharpness", "check_alpha", "check_gradient_norm")
CHECKPOINT_SECONDS = 60.0


class SchemaError(RuntimeError):
    """A file is not a run file, or not a whole one."""


def path(setting: Setting, seed: int) -> pathlib.Path:
    """Where the run of a setting and seed lies."""
    return root() / setting.scale / f"{setting.key(seed)}.nc"


class _WithoutDocstrings(ast.NodeTransformer):
    def generic_visit(self, node):
        super().generic_visit(node)
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = body[1:] or [ast.Pass()]
        return node


@functools.cache
def digest_of(*modules: str) -> str:
    """SHA-256 (16 hex digits) of the code of some modules of the library; comments and docstrings do not count."""
    folder = pathlib.Path(__file__).parent
    code = (ast.unparse(_WithoutDocstrings().visit(ast.parse((folder / f"{name}.py").read_text()))) for name in modules)
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def library_digest() -> str:
    """Digest of the numerical source: other code is another run."""
    return digest_of(*NUMERICAL)


def _commit() -> str:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        folder = pathlib.Path(__file__).parent
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def environment() -> dict[str, str | int]:
    """Versions, device, threads and commit: the part of provenance that the machine decides."""
    device = jax.devices()[0]
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {name: importlib.metadata.version(name) for name in VERSIONED} | {"python": platform.python_version()}
    return {
        "versions": json.dumps(versions),
        "device": cpu if device.platform == "cpu" else device.device_kind,
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "commit": _commit(),
    }


def write(dataset: xr.Dataset, target: pathlib.Path) -> None:
    """Write a dataset to netCDF in one stroke: a reader sees the old file, or the new one, never a part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    small = {
        name: {"zlib": True, "complevel": 5, "dtype": "float32"} for name in dataset.data_vars if dataset[name].ndim
    }
    for name in dataset.data_vars:
        if not np.issubdtype(dataset[name].dtype, np.floating):
            small[name] = {"zlib": True}
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    try:
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=small)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    finally:
        pathlib.Path(temporary).unlink(missing_ok=True)


def load(file: pathlib.Path) -> xr.Dataset:
    """A run file, checked.

    Raises:
        FileNotFoundError: if there is none.
        SchemaError: if it cannot be read, or lacks a variable or attribute; the message names file and field.
    """
    file = pathlib.Path(file)
    if not file.exists():
        raise FileNotFoundError(f"no run file {file}; `make figures` computes it")
    try:
        with xr.open_dataset(file, engine="h5netcdf") as data:
            data = data.load()
    except (OSError, ValueError, KeyError) as error:
        raise SchemaError(f"{file} is not a readable netCDF file ({error}); delete it and run again") from error
    for kind, wanted, there in (
        ("attribute", REQUIRED_ATTRIBUTES, data.attrs),
        ("variable", REQUIRED_VARIABLES, data.variables),
    ):
        if missing := [name for name in wanted if name not in there]:
            raise SchemaError(f"{file} lacks the {kind} {', '.join(missing)}; delete it and run again")
    return data


def stale(setting: Setting, seed: int) -> str | None:
    """Why the run of a setting and seed must be computed (in words), or None where its file serves."""
    file = path(setting, seed)
    if not file.exists():
        return "there is no file yet"
    try:
        attributes = load(file).attrs
    except SchemaError as error:
        return str(error)
    if attributes["setting_digest"] != setting.digest():
        return "its setting changed"
    if attributes["library_digest"] != library_digest():
        return "the numerical code changed"
    return None


class _Checkpoints:
    """The last state of one run, kept by orbax in a folder that names setting and code."""

    def __init__(self, folder: pathlib.Path):
        import orbax.checkpoint  # here alone: it takes a second to import

        self.folder, self.keeper = folder, orbax.checkpoint.PyTreeCheckpointer()
        self.approach: tracking.Approach | None = None
        self.saved = time.monotonic()

    def _pack(self, state, records):
        stacked = {n: np.stack(v) for n, v in records.items() if n in diagnostics.DIMENSIONS or v[0].ndim == 0}
        series = {n: np.concatenate(v) for n, v in records.items() if n not in stacked}
        leaves = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        found = self.approach._asdict() if self.approach else {}
        approach = {name: jax.tree.map(np.asarray, value) for name, value in found.items()}
        return {"state": leaves, "series": series, "stacked": stacked, "approach": approach}

    def save(self, state, records, *, now: bool = False) -> None:
        if now or time.monotonic() - self.saved >= CHECKPOINT_SECONDS:
            packed = {name: part for name, part in self._pack(state, records).items() if part}
            self.keeper.save(self.folder.absolute() / "last", packed, force=True)
            self.saved = time.monotonic()

    def read(self) -> dict | None:
        last = self.folder.absolute() / "last"
        return self.keeper.restore(last) if last.exists() else None

    def load_approach(self) -> tracking.Approach | None:
        found = self.read()
        if not found or "approach" not in found:
            return None
        fields = dict(found["approach"])
        fields |= {"step": int(fields["step"]), "status": tracking.EdgeStatus(int(fields["status"]))}
        self.approach = tracking.Approach(**fields)
        return self.approach

    def restore(self, template):
        found = self.read()
        if not found or "state" not in found:
            return None
        leaves = [found["state"][name] for name in sorted(found["state"])]
        old, structure = jax.tree.flatten(template)
        state = jax.tree.unflatten(
            structure, [jax.numpy.asarray(leaf, like.dtype) for leaf, like in zip(leaves, old, strict=True)]
        )
        records = {name: list(values) for name, values in found.get("stacked", {}).items()}
        return state, records | {name: [values] for name, values in found["series"].items()}


@contextlib.contextmanager
def _alone(folder: pathlib.Path):
    """Hold a folder's lock: a second process that computes the same run waits here, then finds it done."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(folder.name + ".lock"), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def compute(setting: Setting, seed: int = 0, *, progress: bool = True, folder=None) -> xr.Dataset:
    """Compute the run of a setting and seed, or finish the one that was killed; write its file and return it.

    The numbers are those of a run that was never killed.  Two processes that ask for one run do the work once.
    """
    key, digest = setting.key(seed), setting.digest()
    checkpoints = root() / "checkpoints" / f"{setting.scale}-{key}-{digest}-{library_digest()}"
    with _alone(checkpoints):
        if stale(setting, seed) is None:
            return load(path(setting, seed))
        begun = time.perf_counter()
        experiment = experiments.prepare(setting, seed, folder=folder)
        keeper = _Checkpoints(checkpoints)
        before = 0.0
        with contextlib.suppress(OSError, ValueError):
            before = float((checkpoints / "seconds").read_text())
        approach = keeper.load_approach()
        if approach is None:
            approach = tracking.find_instability(
                experiment.objective, experiment.theta, setting.learning_rate, max_steps=setting.edge_steps, seed=seed,
                progress=progress,
            )  # fmt: skip
            keeper.approach = approach
            keeper.save({}, {}, now=True)

        def save(state, records):
            keeper.save(state, records)
            (checkpoints / "seconds").write_text(str(before + time.perf_counter() - begun))

        options = tracking.Options(
            generalized=setting.generalized, strided=setting.strided, kick=setting.kick, transport=setting.transport
        )
        data = tracking.run(
            experiment.objective, experiment.theta, setting.learning_rate, steps=setting.tracked_steps,
            edge_steps=setting.edge_steps, options=options, seed=seed, progress=progress, approach=approach,
            restore=keeper.restore, save=save,
        )  # fmt: skip
        data.attrs |= environment() | {
            "setting": json.dumps(dataclasses.asdict(setting)),
            "setting_digest": digest,
            "key": key,
            "scale": setting.scale,
            "seed": seed,
            "library_digest": library_digest(),
            "seconds": before + time.perf_counter() - begun,
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "data_hash": experiment.train.digest,
            "parameters": experiment.objective.size,
        }
        write(data, path(setting, seed))
        shutil.rmtree(checkpoints, ignore_errors=True)
        return load(path(setting, seed))


def load_or_run(setting: Setting, seed: int = 0, *, progress: bool = True) -> xr.Dataset:
    """The run of a setting and seed: its file where setting and numerical code agree, computed afresh otherwise."""
    return load(path(setting, seed)) if stale(setting, seed) is None else compute(setting, seed, progress=progress)


def recorded(name: str, seed: int = 0, **overrides) -> xr.Dataset | None:
    """The recorded paper-scale run of a named experiment, whatever code made it (its attributes say), or None."""
    file = path(settings.get(name, "paper", **overrides), seed)
    return load(file) if file.exists() else None


def recordings(name: str | None = None, seed: int = 0) -> list[xr.Dataset]:
    """All recorded paper-scale runs, or those of one experiment: by name, the largest η first."""
    runs = [load(file) for file in (root() / "paper").glob(f"{name or '*'}--eta*--seed{seed}.nc")]
    return sorted(runs, key=lambda run: (run.attrs["key"].split("--")[0], -run.attrs["learning_rate"]))


def single_direction(run: xr.Dataset) -> xr.Dataset:
    """A run up to the step at which λ₂ reaches 1.9/η; all where that never came, came at 0, or was not measured."""
    late = run.attrs["single_direction_until"]
    cut = {name: (run[name] < late).values for name in ("t", "interval", "stride") if name in run.sizes}
    return run.isel(cut) if late > 0 else run


def radius(run: xr.Dataset) -> xr.DataArray:
    """δ at every step (NaN where α ≤ 0: nothing sharpens)."""
    return np.sqrt(run.delta_squared.where(run.delta_squared > 0))


def cycles(run: xr.Dataset) -> np.ndarray:
    """Steps that bound the whole cycles: the first, where S = 2/η, and each at which y turns positive again."""
    y = run.y.values
    return np.r_[0, np.flatnonzero((y[:-1] < 0) & (y[1:] >= 0)) + 1]


def smallness(run: xr.Dataset) -> xr.DataArray:
    """ε = η√α at every step (NaN where α < 0)."""
    return run.attrs["learning_rate"] * np.sqrt(run.alpha.where(run.alpha >= 0))


def main(arguments: list[str] | None = None) -> int:
    """``python -m eoslib.results run --name NAME --scale SCALE``; ``--help`` lists what can be changed."""
    parser = argparse.ArgumentParser(prog="python -m eoslib.results", description="Compute one run file.")
    parser.add_argument("verb", choices=["run"])
    parser.add_argument("--name", required=True, help=f"one of {', '.join(settings.names())}")
    parser.add_argument("--scale", default="quick", choices=settings.SCALES)
    parser.add_argument("--seed", type=int, default=0)
    fields = {"learning_rate": float, "n": int, "tracked_steps": int}
    for field, kind in fields.items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=kind)
    chosen = parser.parse_args(arguments)
    overrides = {field: value for field in fields if (value := getattr(chosen, field)) is not None}
    # Runs that differ in η or seed alone share their compiled programs.
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(root() / "checkpoints" / "compiled"))
    setting = settings.get(chosen.name, chosen.scale, **overrides)
    print(
        f"{setting.key(chosen.seed)} ({setting.scale})",
        stale(setting, chosen.seed) or "already computed",
        sep=": ",
        file=sys.stderr,
    )
    data = compute(setting, chosen.seed, progress=sys.stderr.isatty())
    print(
        f"{data.attrs['status']} (step {data.attrs['instability_step']}); {data.attrs['seconds']:.0f} s",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
