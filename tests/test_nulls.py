"""Null models of the prediction: exact where two numbers are all there is, and wrong where they are broken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eoslib.objective import Objective
from eoslib.trajectories.state import Options
from eoslib.trajectories.track import track_from
from selfstab.runs import nulls, quantities
from selfstab.theory import reduced

ETA, ALPHA, BETA = 0.02, 1.0, 2.0


@pytest.fixture(scope="module")
def toy():
    """A loss on which gradient descent is the reduced map."""
    with jax.enable_x64(True):
        loss = reduced.ToyLoss(ETA, ALPHA, BETA, 0.0)
        objective = Objective.create(lambda p, _: loss.loss(p), jnp.zeros(2), jnp.zeros(1))
        start = jnp.zeros(2), jnp.array([1.0, 0.0])
        return track_from(
            objective, *start, ETA, steps=480, options=Options(flow=False, kick=0.5, start=0.0), progress=False
        )


def test_the_reduced_map_is_gradient_descent_where_two_numbers_are_all(toy):
    for frozen in (False, True):
        guess = nulls.reduced_map(toy, frozen=frozen)
        np.testing.assert_allclose(guess.x, toy.x, rtol=0, atol=1e-6 * float(np.abs(toy.x).max()))
        np.testing.assert_allclose(guess.loss(toy), toy.gd_loss, rtol=0, atol=1e-2 * float(np.abs(toy.gd_loss).max()))


def test_each_broken_one_is_off(toy):
    delta = float(np.sqrt(toy.delta_squared[0]))
    errors = {name: np.abs(guess.x - toy.x.values).max() / delta for name, guess in nulls.broken(toy).items()}
    assert errors.pop("two frozen numbers") < 1e-5
    assert len(errors) == 4
    assert min(errors.values()) > 0.1, errors
    units = {name: quantities.prediction_errors(toy, guess) for name, guess in nulls.broken(toy).items()}
    own = quantities.prediction_errors(toy)
    assert list(own) == ["deviation", "loss", "sharpness"]
    assert all(
        own[name] < 0.1 * each[name]
        for each in units.values()
        for name in own
        if each is not units["two frozen numbers"]
    )
    lost = nulls.reduced_map(toy, force=-1.0)
    assert np.isinf([lost.x[-1], lost.loss(toy)[-1], lost.sharpness(toy)[-1]]).all()
    assert np.isfinite(lost.x[0])
    assert not np.isnan(lost.sharpness(toy)).any()


def test_the_mean_sharpness_is_derived_from_the_bounces_alone(toy):
    """To a tenth of ε²: a sharpness read low by a third of ε² is noticed, and what is derived does not depend on it."""
    measured, derived = quantities.hovering(toy)
    small = float((quantities.epsilon(toy) ** 2).mean())
    assert abs(measured - derived) < 0.1 * small
    low, same = quantities.hovering(toy.assign(gd_sharpness=(1 - small / 3) * toy.gd_sharpness))
    assert same == derived
    assert abs(low - derived) > 0.2 * small
    assert np.isnan(quantities.hovering(toy.isel(t=slice(10)))).all()


def test_tracks_without_dynamics_look_like_the_track():
    """The same length and mean square, and with shuffled phases the same spectrum; but other tracks."""
    t = np.arange(201)
    size, y = 1 + 0.5 * np.sin(t / 9), np.cos(t / 9)
    for name, tracks in nulls.tracks_without_dynamics(size, y, draws=50).items():
        mean = np.mean([np.mean(other**2) for other, _ in tracks])
        np.testing.assert_allclose(mean, np.mean(size**2), rtol=0.05)  # 50 draws of 201 numbers: 1.4 % each way
        for each, other in tracks:
            assert each.shape == other.shape == size.shape
            assert not np.allclose(each, size)
        if name == "shuffled phases":
            np.testing.assert_allclose(np.abs(np.fft.rfft(tracks[0][1])), np.abs(np.fft.rfft(y)), atol=1e-9)
