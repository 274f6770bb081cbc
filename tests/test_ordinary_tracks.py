"""Tracks of ordinary losses in JAX's own mode: 32 bits, arrays that the loss makes inside, bfloat16 parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eoslib
from eoslib.objective import Objective
from eoslib.position import Position
from eoslib.stable_set import ProjectionStatus
from eoslib.trajectories.track import run

pytestmark = pytest.mark.usefixtures("ordinary")

RNG = np.random.default_rng(0)
INPUTS, LABELS = RNG.normal(size=(40, 5)).astype(np.float32), RNG.integers(0, 3, size=40)
PARAMS = {
    "w": RNG.normal(size=(5, 16)).astype(np.float32) * 0.3,
    "v": RNG.normal(size=(16, 3)).astype(np.float32) * 0.3,
}
ETA, STEPS = 0.15, 30


def outputs(p, x):
    return jnp.tanh(x @ p["w"]) @ p["v"]


def squared(target):
    """Mean squared distance of the outputs from what ``target`` makes of the labels."""
    return lambda p, batch: jnp.mean(jnp.sum((outputs(p, batch[0]) - target(batch[1])) ** 2, axis=-1))


def scanned(p, batch):
    """The same loss, added up sample after sample in a carry that the loss makes itself."""

    def add(total, sample):
        return total + jnp.sum((outputs(p, sample[0]) - jnp.eye(3)[sample[1]]) ** 2), None

    return jax.lax.scan(add, jnp.zeros(()), batch)[0] / len(batch[1])


LOSSES = {
    "one_hot": squared(lambda y: jax.nn.one_hot(y, 3)),
    "eye": squared(lambda y: jnp.eye(3)[y]),
    "buffer": squared(lambda y: jnp.zeros((len(y), 3)).at[jnp.arange(len(y)), y].set(1.0)),
    "scan": scanned,
}


@pytest.fixture(scope="module")
def exact():
    """Gradient descent from the same start in NumPy's float64 up to the instability of the first loss: (step, loss)."""
    x, target = INPUTS.astype(float), np.eye(3)[LABELS]
    w, v = (PARAMS[name].astype(float) for name in "wv")
    losses = []
    for _ in range(400):
        hidden = np.tanh(x @ w)
        off = hidden @ v - target
        losses.append((off**2).sum(axis=1).mean())
        slope = 2 * off / len(x)
        w, v = w - ETA * x.T @ ((slope @ v.T) * (1 - hidden**2)), v - ETA * hidden.T @ slope
    return np.array(losses)


@pytest.mark.parametrize("name", LOSSES)
def test_an_ordinary_loss_tracks(name, exact):
    data = eoslib.track(
        LOSSES[name], PARAMS, (INPUTS, LABELS), learning_rate=ETA, steps=STEPS, progress=False,
        options=eoslib.Options(kick=0.3, generalized=True),
    )  # fmt: skip
    assert data.attrs["status"].startswith("reached")
    assert data.attrs["start_projection"] == ProjectionStatus.ON_BOUNDARY.message
    ends = {value for key, value in data.attrs.items() if key.startswith("end_")}
    assert ends == {"recorded to the end"}
    # Roundings of float32 derivatives add up to this over the approach, in a loss of order one.
    np.testing.assert_allclose(data.approach_loss[:400], exact[: data.sizes["approach_step"]], rtol=1e-4)
    assert data.violation.max() < 1e-3
    delta = float(np.sqrt(data.delta_squared.values.mean()))
    assert data.predicted_error.max() < 0.5 * delta < data.distance.max()


def test_what_a_search_returns_is_projected_as_it_is():
    """Outside of 64-bit mode, where a float64 θ was an error inside of JAX."""
    objective = Objective.create(LOSSES["one_hot"], PARAMS, (INPUTS, LABELS))
    found = eoslib.find_instability(objective, objective.ravel(PARAMS), ETA, max_steps=4000, progress=False)
    assert isinstance(found.theta, Position)
    projection = eoslib.project(objective, found.theta, found.eigenvector, ETA)
    assert projection.message == ProjectionStatus.ON_BOUNDARY.message
    params = objective.like_params(projection.theta.astype(jnp.float32))
    sharpness = eoslib.sharpness(LOSSES["one_hot"], params, (INPUTS, LABELS))
    np.testing.assert_allclose(sharpness.value, 2 / ETA, rtol=1e-4)
    wide = np.asarray(found.theta)  # and as a float64 array of NumPy
    again = eoslib.project(objective, wide, found.eigenvector, ETA)
    np.testing.assert_allclose(np.asarray(again.theta), np.asarray(projection.theta), atol=1e-9)


def test_parameters_in_bfloat16_track_as_the_same_numbers_in_float32():
    low = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), PARAMS)
    options = dict(learning_rate=ETA, steps=5, progress=False)
    one = eoslib.track(LOSSES["one_hot"], low, (INPUTS, LABELS), **options)
    other = eoslib.track(
        LOSSES["one_hot"], jax.tree.map(lambda leaf: leaf.astype(jnp.float32), low), (INPUTS, LABELS), **options
    )
    assert one.attrs["instability_step"] == other.attrs["instability_step"]
    np.testing.assert_array_equal(one.gd_loss, other.gd_loss)


@pytest.mark.parametrize("kind", ["network", "quadratic", "above"])
def test_a_track_makes_no_nan_on_the_way(kind):
    """Under ``jax_debug_nans`` one in an unused branch is an error."""
    options = eoslib.Options(generalized=True, transport=20, strided=25)
    losses = {
        "network": (LOSSES["one_hot"], PARAMS, (INPUTS, LABELS), ETA, 0.3),
        "quadratic": (lambda p: jnp.sum(p**2) + p[0], jnp.ones(5), None, 0.3, 0.0),
        "above": (lambda p: 3 * p[0] ** 2 + p[1] ** 2 / 2 - p[1], jnp.array([1.0, 2.0, 3.0]), None, 0.5, 0.0),
    }
    loss, params, batch, rate, kick = losses[kind]
    objective = Objective.create(loss, params, batch)
    with jax.debug_nans(True):
        data = run(
            objective, objective.ravel(params), rate, steps=STEPS, edge_steps=4000 if kind == "network" else 50,
            options=options._replace(kick=kick), progress=False,
        )  # fmt: skip
    assert ("t" in data.sizes) == (kind != "quadratic")
    assert all(np.isfinite(values).all() for values in data.data_vars.values())
