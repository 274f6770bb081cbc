"""Checkpoints: the last state of a run in progress, so that a killed run resumes with the numbers it would have had."""

from __future__ import annotations

import pathlib
import time

import jax
import numpy as np

from eoslib.position import Position
from eoslib.trajectories import variables
from eoslib.trajectories.approach import Approach, EdgeStatus

CHECKPOINT_SECONDS = 60.0


class Checkpoints:
    """The last state of one run, kept by orbax in a folder named after setting and code."""

    def __init__(self, folder: pathlib.Path):
        import orbax.checkpoint  # here alone: it takes a second to import

        self.folder, self.keeper = folder, orbax.checkpoint.PyTreeCheckpointer()
        self.approach: Approach | None = None
        self.saved = time.monotonic()

    def _pack(self, state, records):
        stacked = {n: np.stack(v) for n, v in records.items() if variables.get(n).dims[0] != "t"}
        series = {n: np.concatenate(v) for n, v in records.items() if n not in stacked}
        leaves = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        found = self.approach._asdict() if self.approach else {}
        found.pop("memory", None)  # gradient descent has none
        approach = {name: jax.tree.map(np.asarray, value) for name, value in found.items()}
        return {"state": leaves, "series": series, "stacked": stacked, "approach": approach}

    def save(self, state, records, *, now: bool = False) -> None:
        """Keep a state and the records so far, if the last save was long ago or ``now`` is true."""
        if now or time.monotonic() - self.saved >= CHECKPOINT_SECONDS:
            packed = {name: part for name, part in self._pack(state, records).items() if part}
            self.keeper.save(self.folder.absolute() / "last", packed, force=True)
            self.saved = time.monotonic()

    def read(self) -> dict | None:
        """Return the last checkpoint, or None."""
        last = self.folder.absolute() / "last"
        return self.keeper.restore(last) if last.exists() else None

    def load_approach(self) -> Approach | None:
        """Return the approach that was kept, or None."""
        found = self.read()
        if not found or "approach" not in found:
            return None
        fields = dict(found["approach"])
        fields |= {"step": int(fields["step"]), "status": EdgeStatus(int(fields["status"]))}
        if isinstance(fields["theta"], dict):
            fields["theta"] = Position(**jax.tree.map(jax.numpy.asarray, fields["theta"]))
        self.approach = Approach(**fields)
        return self.approach

    def restore(self, template):
        """Return the state, in the structure of ``template``, and the records that were kept, or None."""
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
