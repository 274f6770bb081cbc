"""The experiment of a setting: its objective, its starting point and its data, and the run that it specifies."""

from __future__ import annotations

from typing import NamedTuple

import xarray as xr
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


def prepare(setting: Setting, seed: int = 0, *, folder=None) -> Experiment:
    """Return the experiment that a setting and a seed name: initial parameters, and a sample of the data (0: all).

    Raises:
        ValueError, selfstab.data.DataError: from the loaders.
    """
    train = data.load(setting, folder=folder).resampled(seed)
    module = networks.build(setting)
    params = networks.init(module, train.inputs, seed)
    losses = networks.per_sample_loss(setting, module)
    objective = Objective.create(
        lambda p, batch: losses(p, batch).mean(), params, train.batch, micro_batch=setting.micro_batch
    )
    return Experiment(objective, objective.ravel(params), module, train)


def approach(setting: Setting, seed: int, prepared: Experiment, **io) -> Approach:
    """Descend to the edge, as a setting specifies; ``io`` as in ``find_instability``."""
    steps = setting.edge_steps
    return find_instability(prepared.objective, prepared.theta, setting.learning_rate, max_steps=steps, seed=seed, **io)


def run(setting: Setting, seed: int, prepared: Experiment, found: Approach, **io) -> xr.Dataset:
    """Return the approach found and the track from there, as a setting specifies; ``io`` as in ``track_from``."""
    options = Options(
        generalized=setting.generalized, strided=setting.strided, kick=setting.kick, transport=setting.transport,
        directions=setting.directions, restart_every=setting.restart_every, central=setting.central,
    )  # fmt: skip
    return track.run(
        prepared.objective, prepared.theta, setting.learning_rate, steps=setting.tracked_steps,
        edge_steps=setting.edge_steps, options=options, seed=seed, approach=found, **io,
    )  # fmt: skip
