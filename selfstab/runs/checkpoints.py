"""Checkpoints: the last states of a run in progress, so that a killed run resumes with the numbers it would have had.

Each is a file of NumPy's whose name holds its number and its SHA-256.  The newest that is whole counts.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import sys
import time
import zipfile

import jax
import numpy as np

from eoslib.trajectories import variables

#: Largest fraction of a run's time that goes into saving: a large state is saved less often.
FRACTION = 0.05
#: The newest, and the one before it, should the newest be damaged.
KEPT = 2


def _leaves(part: str, tree) -> dict[str, np.ndarray]:
    return {f"{part}/{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


class Checkpoints:
    """The last states of one run, in a folder named after setting and code; what is damaged is reported and passed by.

    ``found`` holds the arrays of the newest whole checkpoint by name, and is empty without one.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder, self.found, self.number, self.cost = folder, {}, 0, 0.0
        self.approach = None
        for file in self.files():
            self.number = max(self.number, int(file.name.split("-")[0]))
            if self.found:
                break
            self.found = self._read(file)
        self.before = float(self.found.get("seconds", 0.0))
        self.begun = self.saved = time.monotonic()

    def files(self) -> list[pathlib.Path]:
        """Return the checkpoints, the newest first."""
        return sorted(self.folder.glob("[0-9]*-*.npz"), reverse=True)

    def seconds(self) -> float:
        """Return the computing time so far, with that before the run was killed."""
        return self.before + time.monotonic() - self.begun

    def _read(self, file: pathlib.Path) -> dict[str, np.ndarray]:
        try:
            with open(file, "rb") as handle:
                whole = hashlib.file_digest(handle, "sha256").hexdigest() == file.stem.split("-")[1]
            if whole:
                with np.load(file, allow_pickle=False) as kept:
                    return dict(kept)
            reason = "its checksum is another"
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            reason = str(error)
        instead = "the one before it is used" if file != self.files()[-1] else "the run starts afresh"
        print(f"The checkpoint {file} is damaged ({reason}): {instead}.", file=sys.stderr)
        return {}

    def _write(self, arrays: dict[str, np.ndarray]) -> None:
        """Write beside the old ones, rename, and only then remove those that are no longer needed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "partial"
        with open(partial, "w+b") as handle:
            np.savez(handle, **arrays)
            handle.flush()
            os.fsync(handle.fileno())
            handle.seek(0)
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        self.number += 1
        partial.replace(self.folder / f"{self.number:06d}-{digest}.npz")
        for old in self.files()[KEPT:]:
            old.unlink()

    def _keep(self, arrays) -> None:
        """Write what ``arrays()`` returns, if the time since the last save allows for the cost of one."""
        if (begun := time.monotonic()) - self.saved < self.cost / FRACTION:
            return
        try:
            self._write(arrays() | {"seconds": np.asarray(self.seconds())})
        except OSError as error:
            print(f"No checkpoint was written ({error}); the run goes on.", file=sys.stderr)
        self.saved = time.monotonic()
        self.cost = self.saved - begun

    def save_approach(self, state) -> None:
        """Keep the approach so far, a pytree, unless the last save is too recent."""
        self.approach = state
        self._keep(lambda: _leaves("approach", state))

    def restore_approach(self, template):
        """Return the approach so far, in the structure of ``template``, or None."""
        leaves = [self.found[name] for name in sorted(self.found) if name.startswith("approach/")]
        self.approach = jax.tree.unflatten(jax.tree.structure(template), leaves) if leaves else None
        return self.approach

    def save(self, state, records) -> None:
        """Keep a state of the track and the records so far, with the approach, unless the last save is too recent."""

        def arrays():
            stacked = {f"stacked/{n}": np.stack(v) for n, v in records.items() if variables.get(n).dims[0] != "t"}
            series = {f"series/{n}": np.concatenate(v) for n, v in records.items() if f"stacked/{n}" not in stacked}
            return _leaves("state", state) | _leaves("approach", self.approach) | stacked | series

        self._keep(arrays)

    def restore(self, template):
        """Return the state, in the structure of ``template``, and the records that were kept, or None."""
        leaves = [self.found[name] for name in sorted(self.found) if name.startswith("state/")]
        if not leaves:
            return None
        old, structure = jax.tree.flatten(template)
        state = jax.tree.unflatten(
            structure, [jax.numpy.asarray(leaf, like.dtype) for leaf, like in zip(leaves, old, strict=True)]
        )
        kept = [(*name.rpartition("/")[::2], values) for name, values in self.found.items()]
        return state, {n: list(v) if part == "stacked" else [v] for part, n, v in kept if part in ("stacked", "series")}
