"""Random losses without mercy: whatever comes out is right, or says in words that it is not; never a silent NaN.

In the suite a bounded number of cases, the same each time; ``make fuzz`` draws more, and others each time.
"""

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoslib.constrained import ConstrainedState, ConstrainedStatus, constrained_step
from eoslib.eigen import DENSE_LIMIT, EigenStatus, leading_eigenpairs
from eoslib.objective import Objective
from eoslib.rules import GradientDescent
from eoslib.sharpness import sharpness
from eoslib.stable_set import ProjectionStatus, project
from eoslib.trajectories.state import Options
from eoslib.trajectories.track import run

CASES = int(os.environ.get("EOSLIB_FUZZ", "0"))
EPS = float(np.finfo(np.float32).eps)


def cases(of_suite: int, weight: float):
    """So many cases in the suite; of ``EOSLIB_FUZZ`` cases the share ``weight``, drawn afresh."""
    count = max(1, round(weight * CASES)) if CASES else of_suite
    return settings(max_examples=count, derandomize=not CASES, database=None, deadline=None)


pytestmark = pytest.mark.usefixtures("as_a_user")


@pytest.fixture(scope="module")
def as_a_user():
    """As `ordinary`, for the whole module: a fixture of single tests would be one of all their cases."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Ridges(NamedTuple):
    """L(θ) = g·θ + Σ_j [h_j z_j²/2 + t_j z_j³/6 + q_j z_j⁴/24] with z = Aθ; arrays with a leading axis of one."""

    a: np.ndarray  # (1, m, p)
    h: np.ndarray  # (1, m)
    t: np.ndarray
    q: np.ndarray
    g: np.ndarray  # (1, p)

    def hessian(self, theta):
        """Exact Hessian (p, p) at θ, in float64."""
        a, h, t, q = (np.asarray(part[0], np.float64) for part in self[:4])
        z = a @ np.asarray(theta, np.float64)
        return a.T @ ((h + t * z + q * z * z / 2)[:, None] * a)

    def gradient(self, theta):
        """Exact gradient (p,) at θ, in float64."""
        a, h, t, q, g = (np.asarray(part[0], np.float64) for part in self)
        z = a @ np.asarray(theta, np.float64)
        return g + a.T @ (h * z + t * z**2 / 2 + q * z**3 / 6)


def loss(theta, batch):
    a, h, t, q, g = batch
    z = (a @ theta)[0]
    return jnp.sum(g[0] * theta) + jnp.sum(h[0] * z**2 / 2 + t[0] * z**3 / 6 + q[0] * z**4 / 24)


SPECTRA = ("random", "positive", "negative", "zero", "single", "repeated", "close", "indefinite")


def curvatures(kind, m, rng):
    h = np.sort(rng.normal(size=m))[::-1]
    return {
        "random": h,
        "positive": np.abs(h),
        "negative": -np.abs(h) - 0.1,
        "zero": np.zeros(m),
        "single": np.where(np.arange(m) == 0, 1.0, 0.0),
        "repeated": np.where(np.arange(m) < max(1, m // 2), 1.0, 0.3),
        "close": 1 - 1e-4 * np.arange(m),
        "indefinite": np.where(np.arange(m) % 2, -100.0, 9.0),
    }[kind]


@st.composite
def problems(draw, sizes=(1, 2, 5, 80)):
    """A loss, a point, and a learning rate somewhere around the edge."""
    p, kind = draw(st.sampled_from(sizes)), draw(st.sampled_from(SPECTRA))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-6, 6))
    cubic, quartic = (draw(st.sampled_from((0.0, 0.1, 3.0))) for _ in range(2))
    slope = draw(st.sampled_from((0.0, 0.1, 10.0)))
    axes = np.linalg.qr(rng.normal(size=(p, p)))[0]
    h = scale * curvatures(kind, p, rng)
    t, q, g = cubic * rng.normal(size=p), quartic * rng.random(p), slope * rng.normal(size=p)
    parts = axes, h, scale * t, scale * q, scale * g
    ridges = Ridges(*(np.asarray(part, np.float32)[None] for part in parts))
    theta = np.asarray(draw(st.sampled_from((0.0, 0.3, 3.0))) * rng.normal(size=p), np.float32)
    largest = np.abs(np.linalg.eigvalsh(ridges.hessian(theta))).max()
    rate = float(np.float32(2 / (draw(st.sampled_from((0.5, 0.99, 1.01, 2.0, 20.0))) * (largest or scale))))
    return ridges, theta, rate


def objective_of(ridges):
    """One function, one shape: a compiled program serves all cases of a size."""
    return Objective.create(loss, jnp.zeros(ridges.g.shape[1]), tuple(map(jnp.asarray, ridges)))


def start_of(kind, p, rng):
    return np.asarray({"random": rng.normal(size=p), "zero": np.zeros(p), "axis": np.eye(p)[0]}[kind], np.float32)


starts = st.sampled_from(("random", "zero", "axis"))


@cases(60, 0.35)
@given(problems(), starts)
def test_sharpness_is_right_or_says_that_it_is_not(problem, start):
    ridges, theta, _ = problem
    chosen = None if start == "random" else jnp.asarray(start_of(start, theta.size, np.random.default_rng(0)))
    found = sharpness(loss, jnp.asarray(theta), tuple(map(jnp.asarray, ridges)), start=chosen)
    values = np.linalg.eigvalsh(ridges.hessian(theta))
    size = np.abs(values).max()
    assert isinstance(found.message, str)
    assert np.isfinite([found.value, found.error_bound]).all()
    assert np.isfinite(found.eigenvector).all()
    if found.status == EigenStatus.CONVERGED:
        # The error is at most the residual, and rounding of products of this size.
        assert abs(found.value - values[-1]) <= 2e-3 * abs(values[-1]) + 100 * EPS * size
        assert abs(np.linalg.norm(found.eigenvector) - 1) < 1e-3
    else:
        assert found.status == EigenStatus.CONVERGED or theta.size > 1


@cases(40, 0.2)
@given(
    st.integers(1, 3), st.sampled_from((5, 80)), st.sampled_from(SPECTRA), st.integers(-25, 25), starts,
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_eigenpairs_are_the_leading_ones_at_any_scale(k, size, kind, power, start, seed):
    rng = np.random.default_rng(seed)
    axes, h = np.linalg.qr(rng.normal(size=(size, size)))[0], 10.0**power * curvatures(kind, size, rng)
    matrix = np.asarray(axes.T @ (h[:, None] * axes), np.float32)
    rows = np.stack([start_of(start, size, rng)] * k)  # of rank one where k > 1
    found = PAIRS(jnp.asarray(matrix), jnp.asarray(rows))
    exact = np.linalg.eigvalsh(matrix.astype(np.float64))[::-1][:k]
    assert np.isfinite(found.values).all()
    if found.status == EigenStatus.CONVERGED:
        np.testing.assert_allclose(found.values, exact, rtol=2e-3, atol=100 * EPS * np.abs(h).max())
        np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(k), atol=1e-3)
    else:
        assert EigenStatus.words(found.status).startswith("not converged")


PAIRS = jax.jit(lambda matrix, rows: leading_eigenpairs(lambda v: jnp.sum(matrix * v[None], axis=1), rows))


def assert_known(ridges, theta, sharpness, tolerance, further=0.0):
    """The sharpness found is the largest eigenvalue or, for large p, one of them.

    A vector that is followed may be overtaken by another unseen; for small p all are looked at.
    """
    values = np.linalg.eigvalsh(ridges.hessian(theta))
    known = values if theta.size > DENSE_LIMIT else values[-1:]
    near = tolerance * abs(sharpness) + further + 100 * EPS * np.abs(values).max()
    assert np.abs(known - sharpness).min() <= near


@cases(40, 0.2)
@given(problems((1, 2, 5, 80)), starts)
def test_projections_are_feasible_or_say_that_they_are_not(problem, start):
    ridges, theta, rate = problem
    u = start_of(start, theta.size, np.random.default_rng(1))
    found = project(objective_of(ridges), jnp.asarray(theta), jnp.asarray(u), rate)
    status = ProjectionStatus(int(found.status))
    finite = np.isfinite(np.asarray(found.theta)).all() and np.isfinite(found.geometry.sharpness)
    assert finite or status is ProjectionStatus.NOT_FINITE
    if status in (ProjectionStatus.INSIDE, ProjectionStatus.ON_BOUNDARY):
        assert_known(ridges, np.asarray(found.theta), float(found.geometry.sharpness), 2e-3)
        assert found.geometry.sharpness <= 2 / rate * (1 + 1e-3)
    assert found.message == status.message


WARNINGS = {ConstrainedStatus.VIOLATED, ConstrainedStatus.NO_DIRECTION, ConstrainedStatus.NOT_CONVERGED}


@jax.jit
def constrained_run(objective, rule, theta, u):
    """Ten steps of the constrained trajectory and of gradient descent."""

    def step(carry, _):
        state, plain = carry
        state, record = constrained_step(objective, rule, state)
        following = rule.update(plain, objective.gradient(plain))
        return (state, following), (record.theta, record.status, record.geometry.sharpness, following)

    return jax.lax.scan(step, (ConstrainedState.at(theta, u), theta), None, length=10)[1]


@cases(60, 0.35)
@given(problems(), starts)
def test_constrained_steps_stay_finite_where_gradient_descent_does(problem, start):
    ridges, theta, rate = problem
    u = jnp.asarray(start_of(start, theta.size, np.random.default_rng(2)))
    path, statuses, sharp, plain = constrained_run(objective_of(ridges), GradientDescent(rate), jnp.asarray(theta), u)
    finite = np.isfinite(np.asarray(path)).all(axis=-1) & np.isfinite(sharp)
    for t in range(10):
        status = ConstrainedStatus(int(statuses[t]))
        assert finite[t] or status is ConstrainedStatus.NOT_FINITE
        if not finite[t]:
            # Where no direction lowers S, or repair did not suffice, the step is none of the stable set's, and said so.
            warned = {ConstrainedStatus(int(s)) for s in statuses[:t]} & WARNINGS
            assert warned or not np.isfinite(plain).all(), "the constraint lost what gradient descent keeps"
        elif status in (ConstrainedStatus.BELOW, ConstrainedStatus.BENT):
            assert_known(ridges, path[t], float(sharp[t]), 5e-3, 1e-4 * 2 / rate)
            assert sharp[t] <= 2 / rate * (1 + 1e-3)


@cases(8, 0.05)
@given(problems((2, 5)))
def test_tracks_are_finite_or_end_in_words(problem):
    ridges, theta, rate = problem
    data = run(
        objective_of(ridges), theta, rate, steps=12, edge_steps=60, progress=False,
        options=Options(chunk=6, generalized=True, transport=6),
    )  # fmt: skip
    assert isinstance(data.attrs["status"], str)
    steps = data.sizes.get("t", 0)
    for curve in ("gd", "flow", "constrained", "predicted", "generalized") if steps else ():
        end = data.attrs[f"ended_{curve}"]
        series = data[f"{curve}_loss"].values
        assert np.isfinite(series[: end if end >= 0 else steps]).all()
        assert ("not finite" in data.attrs[f"end_{curve}"]) == (end >= 0)
    for name in ("alpha", "beta", "gamma", "delta_squared", "violation", "constrained_sharpness"):
        if steps and data.attrs["ended_constrained"] < 0:
            assert not np.isnan(data[name].values).any(), name
