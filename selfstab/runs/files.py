"""Run files: one self-describing netCDF per setting and seed, written atomically and checked when loaded."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Iterable

import numpy as np
import xarray as xr

from eoslib.trajectories import variables
from eoslib.trajectories.variables import VARIABLES
from selfstab import settings
from selfstab.records.paths import recorded_root, replacing, results_root
from selfstab.runs import quantities
from selfstab.settings import Setting
from selfstab.source import numerical_digest

REQUIRED_ATTRIBUTES = (
    "setting", "setting_digest", "key", "scale", "seed", "library_digest", "versions", "device", "threads", "seconds",
    "date", "data_hash", "status", "instability_step", "learning_rate", "edge", "commit",
)  # fmt: skip
#: A run that never reached its edge has only these.
REQUIRED_VARIABLES = tuple(row.name for row in VARIABLES if row.dims in (("approach_step",), ("check",)))


#: What follows the data in a file, before their checksum; readers of HDF5 pass over it.  It is compared before anything
#: is decoded, as a damaged file can make HDF5 do almost anything.
MARK = b"\nSHA-256 of all bytes before this line: "


#: Earlier numerical code, and the code that computes the same unless the earlier reported an eigenvalue below a tenth
#: of the first: where most parameters are idle, as in embeddings, it took random vectors for eigenvectors, also where
#: the true eigenvalues are larger.  (Of several directions the first search, for the most that may be followed, is not
#: recorded; the eigenvalues of the blocks are all above .7 of the first.)
FORMER, SUCCESSOR = "d273ad4fda0eed47", "41ec99b7da86b029"


class SchemaError(RuntimeError):
    """A file is not a run file, or an incomplete one."""


def path(setting: Setting, seed: int) -> pathlib.Path:
    """Return where the run of a setting and seed lies."""
    return results_root() / setting.scale / f"{setting.key(seed)}.nc"


def write(dataset: xr.Dataset, target: pathlib.Path) -> None:
    """Write a dataset to netCDF atomically: a reader sees the old file or the new one, never a part."""
    small = {
        name: {"zlib": True} | ({"complevel": 5, "dtype": "float32"} if np.issubdtype(data.dtype, np.floating) else {})
        for name, data in dataset.data_vars.items()
        if data.ndim
    }
    with replacing(target) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=small)
        with open(temporary, "ab") as file:
            file.write(MARK + _sha256(temporary.read_bytes()))


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def load(file: pathlib.Path) -> xr.Dataset:
    """Load a run file and check it against the schema.

    Raises:
        FileNotFoundError: if there is none.
        SchemaError: if it is not as it was written, cannot be read, or lacks a variable or attribute; the message names
            file and field.

    Eigenvalues that older code may not have found (:data:`FORMER`) are left out.
    """
    file = pathlib.Path(file)
    if not file.exists():
        raise FileNotFoundError(f"no run file {file}; `make figures` computes it")
    try:
        content, mark, checksum = file.read_bytes().rpartition(MARK)
        if mark and checksum != _sha256(content):
            raise ValueError("its checksum is another")
        with xr.open_dataset(file, engine="h5netcdf") as data:
            data = data.load()
    except Exception as error:  # files recorded before there were checksums may be damaged in any way
        raise SchemaError(f"{file} is not a readable netCDF file ({error}); delete it and run again") from error
    if not mark and data.attrs.get("scale") != "paper":  # runs recorded before there were checksums are accepted
        raise SchemaError(f"{file} lacks its checksum; delete it and run again")
    attributes, names = ("attribute", REQUIRED_ATTRIBUTES, data.attrs), ("variable", REQUIRED_VARIABLES, data.variables)
    for kind, wanted, there in (attributes, names):
        if missing := [name for name in wanted if name not in there]:
            raise SchemaError(f"{file} lacks the {kind} {', '.join(missing)}; delete it and run again")
    for row in VARIABLES:
        if row.name in data and data[row.name].dims != row.dims:
            wrong = f"{row.name} has dimensions {data[row.name].dims}, not {row.dims}"
            raise SchemaError(f"{file}: {wrong}; delete it and run again")
    if data.attrs["library_digest"] == FORMER and "eigenvalues" in data:
        small = (data.eigenvalues < 0.1 * data.eigenvalues.isel(pair=0)).any()
        if small and not json.loads(data.attrs["setting"])["strided"]:
            data = data.drop_vars("eigenvalues")  # a step of λ₂ ≥ 1.9/η stays: what was found is a lower bound
    return variables.describe(data)  # files written before the table of variables have no descriptions


def stale(setting: Setting, seed: int) -> str | None:
    """Return why the run of a setting and seed must be computed (in words), or None if its file is up to date."""
    file = path(setting, seed)
    if not file.exists():
        return "there is no file yet"
    try:
        attributes = load(file).attrs
    except SchemaError as error:
        return str(error)
    if attributes["setting_digest"] != setting.digest():
        return "its setting changed"
    if attributes["library_digest"] != numerical_digest():
        return "the numerical code changed"
    return None


def of_today(run: xr.Dataset) -> bool:
    """Return whether today's numerical code made a run, or the one before it as long as today's is its successor."""
    made, today = run.attrs["library_digest"], numerical_digest()
    return made == today or (made, today) == (FORMER, SUCCESSOR)


def recorded(name: str, seed: int = 0, **overrides) -> xr.Dataset | None:
    """Return the recorded paper-scale run of an experiment, whatever code made it (see its attributes), or None."""
    file = recorded_root() / "paper" / path(settings.get(name, "paper", **overrides), seed).name
    return load(file) if file.exists() else None


def recordings(name: str | None = None, seed: int | None = 0, learning_rate: float | None = None) -> list[xr.Dataset]:
    """Return all recorded paper-scale runs, or those of one experiment: by name, the largest η first, then by seed.

    ``seed`` and ``learning_rate`` are those of the runs wanted; None: any.
    """
    rate = "*" if learning_rate is None else f"{learning_rate:g}"
    found = f"{name or '*'}--eta{rate}--seed{'*' if seed is None else seed}.nc"
    runs = [load(file) for file in (recorded_root() / "paper").glob(found)]
    return sorted(
        runs, key=lambda run: (run.attrs["key"].split("--")[0], -run.attrs["learning_rate"], run.attrs["seed"])
    )


def pilots(runs: Iterable[xr.Dataset]) -> int:
    """Return how many runs are pilots (:func:`selfstab.runs.quantities.is_pilot`)."""
    return sum(map(quantities.is_pilot, runs))
