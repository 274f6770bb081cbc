"""The experiment of a setting: its objective, its starting point and its data, and the run that it specifies."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import xarray as xr
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from eoslib.objective import Objective
from eoslib.trajectories import track
from eoslib.trajectories.approach import Approach, find_instability
from eoslib.trajectories.state import Options
from selfstab import data, networks
from selfstab.settings import Setting


class Experiment(NamedTuple):
    """The objects that a run works on."""

    objective: Objective  # full-batch mean loss on the training data
    theta: Float[Array, " p"]  # initial parameters, float32
    module: object  # the flax network
    train: data.Dataset


def spread(batch, devices: int | None = None):
    """Place a batch (n, …) over several devices, n / devices samples on each; on one, leave it as it is.

    Args:
        batch: Pytree of arrays, the same in every process.
        devices: How many devices; None takes the most that divide n.

    Raises:
        ValueError: if there are not so many devices, if they do not divide n, or if they leave out a process.
    """
    there, n = jax.devices(), len(jax.tree.leaves(batch)[0])
    if devices is None:
        devices = max(d for d in range(1, len(there) + 1) if n % d == 0)
    if not 1 <= devices <= len(there):
        raise ValueError(f"devices must lie in 1..{len(there)} (those that JAX sees), got {devices!r}")
    if n % devices:
        raise ValueError(f"devices must divide the n={n} samples, got {devices!r}")
    if jax.process_count() > 1 and devices != len(there):
        raise ValueError(f"devices must be all {len(there)} of the {jax.process_count()} processes, got {devices!r}")
    if devices == 1:
        return batch
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,), devices=there[:devices])
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("batch")))


def prepare(setting: Setting, seed: int = 0, *, folder=None, devices: int | None = 1) -> Experiment:
    """Return the experiment that a setting and a seed name: initial parameters, and a sample of the data (0: all).

    ``devices`` is how many share the samples (:func:`spread`).

    Raises:
        ValueError, selfstab.data.DataError: from the loaders and from :func:`spread`.
    """
    train = data.load(setting, folder=folder).resampled(seed)
    module = networks.build(setting)
    params = networks.init(module, train.inputs, seed)
    losses = networks.per_sample_loss(setting, module)
    objective = Objective.create(
        lambda p, batch: losses(p, batch).mean(),
        params,
        spread(train.batch, devices),
        micro_batch=setting.micro_batch,
        gradient_dtype=setting.gradient_dtype,
    )
    return Experiment(objective, objective.ravel(params), module, train)


def approach(setting: Setting, seed: int, prepared: Experiment, **io) -> Approach:
    """Descend to the edge, in float32, as a setting specifies; ``io`` as in ``find_instability``."""
    options = dict(max_steps=setting.edge_steps, midpoint=setting.midpoint, seed=seed)
    objective = dataclasses.replace(prepared.objective, precise=())
    return find_instability(objective, prepared.theta, setting.learning_rate, **options, **io)


def run(setting: Setting, seed: int, prepared: Experiment, found: Approach, **io) -> xr.Dataset:
    """Return the approach found and the track from there, as a setting specifies; ``io`` as in ``track_from``."""
    options = Options(
        generalized=setting.generalized, strided=setting.strided, kick=setting.kick, transport=setting.transport,
        directions=setting.directions, restart_every=setting.restart_every, central=setting.central,
        start=setting.start,
    )  # fmt: skip
    return track.run(
        prepared.objective, prepared.theta, setting.learning_rate, steps=setting.tracked_steps,
        edge_steps=setting.edge_steps, options=options, seed=seed, approach=found, **io,
    )  # fmt: skip
