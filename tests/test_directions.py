"""Several directions: the block's geometry, constrained step, predictions and central flow against dense algebra."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import eoslib
from eoslib.complementarity import rotation, svec
from eoslib.constrained import ConstrainedState, ConstrainedStatus, constrained_step
from eoslib.geometry import Thirds, local_geometry, local_geometry_and_products
from eoslib.objective import Objective
from eoslib.rules import GradientDescent
from eoslib.stable_set import ProjectionStatus, bend, project
from eoslib.trajectories import track
from eoslib.trajectories.central import CentralState, central_flow_step
from eoslib.trajectories.prediction import block_predicted_step, generalized_predicted_step
from eoslib.trajectories.state import Options
from eoslib.trajectories.variables import VARIABLES

ETA, SIZE = 0.02, 70
EDGE = 2 / ETA
stepped = jax.jit(constrained_step, static_argnames=("thirds_every", "tolerance", "eigen_tolerance"))


@dataclasses.dataclass(frozen=True)
class Quartic:
    """L = g·θ + ½θᵀHθ + T[θ³]/6 + Q[θ⁴]/24 with derivatives in NumPy, its first few eigenvalues at the edge at 0."""

    linear: np.ndarray
    matrix: np.ndarray
    third: np.ndarray
    fourth: np.ndarray  # rows w of Σ_w (w·θ)⁴/24

    @classmethod
    def draw(cls, critical: int, seed: int = 0, alpha: float = 0.1, margin: float = 0.6, rise=0.0) -> Quartic:
        """Draw one, whose covariance is 2α(I + E) at θ = 0 with a small symmetric E: ∇L = −T⊥:α(I + E) − downhill."""
        rng = np.random.default_rng(seed)
        bulk = np.concatenate([[margin], np.linspace(0.3, 0.01, SIZE - critical - 1)]) * EDGE
        matrix, draw = np.diag(np.concatenate([np.full(critical, EDGE), bulk])), rng.normal(size=(SIZE,) * 3) / 4
        third = sum(draw.transpose(p) for p in itertools.permutations(range(3))) / 6
        third[critical:, critical:, critical:] = 0  # the bulk's own cubic terms: the theory drops them
        pairs = third[:critical, :critical].copy()
        pairs[..., :critical] = 0
        rows, downhill = pairs.reshape(-1, SIZE), rng.normal(size=SIZE) * (np.arange(SIZE) > critical)
        downhill -= rows.T @ np.linalg.lstsq(rows.T, downhill, rcond=None)[0]
        gradient = -np.einsum("ij,ijp->p", alpha * cls.weights(critical), pairs) - 5 * alpha * downhill
        m = critical  # the direction with a margin, whose eigenvalue rises on the way down
        for place in ((m, m, slice(None)), (m, slice(None), m), (slice(None), m, m)):
            third[place] += rise * downhill
        return cls(gradient, matrix, third, 0.3 * rng.normal(size=(10, SIZE)))

    @staticmethod
    def weights(critical: int) -> np.ndarray:
        """I + E."""
        return np.eye(critical) + 0.3 * np.diag(np.ones(critical - 1), 1) + 0.3 * np.diag(np.ones(critical - 1), -1)

    def loss(self, theta):
        g, h, t, w = (jnp.asarray(part, theta.dtype) for part in (self.linear, self.matrix, self.third, self.fourth))
        return g @ theta + theta @ h @ theta / 2 + (t @ theta @ theta) @ theta / 6 + jnp.sum((w @ theta) ** 4) / 24

    def gradient(self, theta):
        quartic = (self.fourth @ theta) ** 3 @ self.fourth / 6
        return self.linear + self.matrix @ theta + self.third @ theta @ theta / 2 + quartic

    def hessian(self, theta):
        w = self.fourth
        return self.matrix + self.third @ theta + (w.T * (w @ theta) ** 2) @ w / 2

    def tensor(self, theta):
        w = self.fourth
        return self.third + np.einsum("a,ai,aj,ak->ijk", w @ theta, w, w, w)

    @functools.cached_property
    def objective(self):
        return Objective.create(self.loss, jnp.zeros(SIZE))

    def leading(self, theta, k):
        values, vectors = np.linalg.eigh(self.hessian(theta))
        return values[::-1][:k], vectors.T[::-1][:k]

    def state(self, k, theta=None):
        theta = jnp.zeros(SIZE) if theta is None else jnp.asarray(theta)
        return ConstrainedState.at(theta, jnp.asarray(self.leading(np.asarray(theta), k)[1]))


def run(quartic, k, steps=60, **options):
    """(states, records) of so many constrained steps."""
    state, states, records = quartic.state(k), [], []
    for _ in range(steps):
        states.append(state)
        state, record = stepped(quartic.objective, GradientDescent(ETA), state, **options)
        records.append(record)
    return [*states, state], records


# --- geometry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 4])
def test_third_derivatives_of_all_pairs_are_the_dense_ones(k):
    quartic, rng = Quartic.draw(3), np.random.default_rng(1)
    theta, us = rng.normal(size=SIZE), rng.normal(size=(k, SIZE))
    expected = np.einsum("ijp,ai,bj->abp", quartic.tensor(theta), us, us)[np.triu_indices(k)]
    found = quartic.objective.thirds(jnp.asarray(theta), jnp.asarray(us))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())
    loss, gradient, images = quartic.objective.gradient_and_hvps(jnp.asarray(theta), jnp.asarray(us))
    np.testing.assert_allclose(loss, quartic.loss(jnp.asarray(theta)), rtol=1e-12)
    np.testing.assert_allclose(gradient, quartic.gradient(theta), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(images, us @ quartic.hessian(theta), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("micro_batch", [3, 8])
def test_third_derivatives_come_in_micro_batches_too(micro_batch):
    whole, pieces = (
        Objective.create(oracles.mlp_loss, oracles.mlp_params(), oracles.mlp_batch(), micro_batch=m)
        for m in (None, micro_batch)
    )
    theta = whole.ravel(oracles.mlp_params())
    us = jax.random.normal(jax.random.key(0), (3, theta.size), theta.dtype)
    np.testing.assert_allclose(pieces.thirds(theta, us), whole.thirds(theta, us), rtol=1e-9, atol=1e-11)
    for one, other in zip(pieces.gradient_and_hvps(theta, us), whole.gradient_and_hvps(theta, us)):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_the_blocks_quantities_are_their_formulas():
    """Λ, 𝒢, A, Σ by einsum from dense tensors, and Σ = 2α(I + E), which the loss was made for."""
    quartic, k, rule = Quartic.draw(3), 4, GradientDescent(ETA)
    theta = 1e-3 * np.random.default_rng(2).normal(size=SIZE)
    geometry = local_geometry(quartic.objective, jnp.asarray(theta), quartic.state(k).start, tolerance=1e-9)
    values, us = quartic.leading(theta, k)
    np.testing.assert_allclose(geometry.values, values, rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.sum(geometry.vectors * us, axis=1)), 1, rtol=1e-9)
    us = np.asarray(geometry.vectors)
    across = np.eye(SIZE) - us.T @ us
    pairs = np.einsum("ijp,ai,bj->abp", quartic.tensor(theta), us, us)  # (k, k, p)
    np.testing.assert_allclose(
        geometry.sharpening(rule), -pairs @ across @ quartic.gradient(theta), rtol=1e-8, atol=1e-9
    )
    z = np.random.default_rng(3).normal(size=(k, k))
    z = z + z.T
    applied = np.einsum("abp,cdp,cd->ab", pairs @ across, pairs @ across, z)
    np.testing.assert_allclose(geometry.gram(rule) @ svec(jnp.asarray(z)), svec(jnp.asarray(applied)), rtol=1e-8)
    np.testing.assert_allclose(
        bend(geometry, rule, jnp.asarray(z)), -np.einsum("ab,abp->p", z, pairs @ across), atol=1e-9
    )
    geometry = local_geometry(quartic.objective, jnp.zeros(SIZE), jnp.eye(SIZE)[:3])
    us, multiplier = np.asarray(geometry.vectors), np.asarray(geometry.multiplier(rule).value)
    weights = np.zeros((SIZE, SIZE))
    weights[:3, :3] = 0.1 * Quartic.weights(3)
    np.testing.assert_allclose(2 * multiplier / ETA, 2 * us @ weights @ us.T, rtol=1e-6, atol=1e-8)


def test_known_third_derivatives_turn_with_the_basis_and_are_new_where_the_space_is():
    quartic, rng = Quartic.draw(3), np.random.default_rng(4)
    theta, none = jnp.zeros(SIZE), jnp.zeros((0, SIZE))
    fresh = local_geometry(quartic.objective, theta, jnp.eye(SIZE)[:4])
    q = jnp.asarray(np.linalg.qr(rng.normal(size=(4, 4)))[0])
    marked = rotation(q) @ fresh.thirds + 1  # what is handed in, not what is evaluated, comes back
    known = Thirds(q @ fresh.vectors, marked, jnp.zeros((), bool))
    found, _ = local_geometry_and_products(quartic.objective, theta, jnp.eye(SIZE)[:4], none, known=known)
    np.testing.assert_allclose(found.thirds, fresh.thirds + rotation(q.T) @ jnp.ones_like(marked), rtol=1e-6, atol=1e-8)
    other = known._replace(vectors=jnp.eye(SIZE)[4:8])
    for unusable in (other, known._replace(fresh=jnp.ones((), bool))):
        found, _ = local_geometry_and_products(quartic.objective, theta, jnp.eye(SIZE)[:4], none, known=unusable)
        np.testing.assert_allclose(found.thirds, fresh.thirds, rtol=1e-9, atol=1e-9)


# --- the constrained step ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def walked():
    quartic = Quartic.draw(3)
    return quartic, *run(quartic, 4)


def test_three_eigenvalues_stay_at_the_edge_while_the_loss_falls(walked):
    quartic, _, records = walked
    values = np.array([quartic.leading(np.asarray(record.theta), 4)[0] for record in records]) / EDGE
    assert values[1:].max() <= 1 + 2e-5
    assert np.abs(values[1:, :3] - 1).max() <= 2e-3  # two leave the edge for a while
    assert values[:, 3].max() < 0.95
    assert all(int(record.rounds) == 0 for record in records)
    assert {record.message for record in records} == {ConstrainedStatus.BENT.message}
    assert (np.diff([float(record.geometry.loss) for record in records]) < 0).all()
    # One direction cannot: the others pass the edge.
    _, single = run(quartic, 1)
    assert max(quartic.leading(np.asarray(record.theta), 1)[0][0] for record in single) > EDGE * (1 + 5e-4)


def test_the_path_is_bent_along_the_constraint_gradients_where_it_arrives(walked):
    """Across the block the way from θ_t − η∇L to θ_{t+1} is T⊥:W taken there, W ⪰ 0 (KKT): in the sum over 40 steps.

    One step bends along T⊥ of its own center, and the next one turns that bend; without the turn the sum is off.
    """
    quartic, states, records = walked
    total, there, here = np.zeros((3, SIZE))
    for record, after, following in zip(records, states[1:41], records[1:41]):
        theta = np.asarray(record.theta)
        total += theta - ETA * quartic.gradient(theta) - np.asarray(after.theta)
        turned = np.asarray(following.overlap)
        multiplier = np.asarray(record.multiplier)
        assert np.linalg.eigvalsh(multiplier)[0] >= -1e-9
        for place, w, at in ((there, turned @ multiplier @ turned.T, following), (here, multiplier, record)):
            us, where = np.asarray(at.geometry.vectors), np.asarray(at.theta)
            pairs = np.einsum("ijp,ai,bj->abp", quartic.tensor(where), us, us)
            place += np.einsum("abp,ab->p", pairs, w) @ (np.eye(SIZE) - us.T @ us)
    us = np.asarray(following.geometry.vectors)
    across = np.eye(SIZE) - us.T @ us
    off, unturned = (
        np.linalg.norm(across @ (total - bends)) / np.linalg.norm(across @ total) for bends in (there, here)
    )
    assert off <= 0.01
    assert unturned > 3 * off


def test_the_step_depends_on_the_block_and_not_on_its_basis(walked):
    quartic, states, _ = walked
    q = jnp.asarray(np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))[0])
    state = states[20]
    turned = state._replace(
        start=q @ state.start, older=q @ state.older, multiplier=q @ state.multiplier @ q.T,
        thirds=rotation(q) @ state.thirds,
    )  # fmt: skip
    rule = GradientDescent(ETA)
    for every in (1, 100):
        one, other = (stepped(quartic.objective, rule, s._replace(age=jnp.zeros_like(s.age)), thirds_every=every)[0]
                      for s in (state, turned))  # fmt: skip
        np.testing.assert_allclose(one.theta, other.theta, atol=1e-9)
        overlap = np.abs(np.sum(one.older * other.older, axis=1))  # Ritz vectors, signs by their own starts
        np.testing.assert_allclose(overlap, 1, atol=1e-9)


def test_more_directions_than_are_needed_change_little_and_stale_third_derivatives_too(walked):
    """With one critical eigenvalue k = 1 and 4 agree to 1 % of δ; r = 5 and r = 10 against r = 1 too."""
    quartic = Quartic.draw(1, seed=3)
    ends = [np.asarray(run(quartic, k)[0][-1].theta) for k in (1, 4)]
    delta = (2 * 0.1) ** 0.5
    assert max(np.linalg.norm(end - ends[0]) for end in ends) <= 0.01 * delta
    quartic, states, _ = walked
    for every in (5, 10):
        old = np.asarray(run(quartic, 4, thirds_every=every)[0][-1].theta)
        assert 0 < np.linalg.norm(old - np.asarray(states[-1].theta)) <= 0.01 * delta


def test_an_eigenvalue_that_shares_no_parameter_is_seen_by_a_block():
    """½(2/η + y)x² − y beside ½(1.9/η + 4w)z² − w: the second passes the edge; one direction never sees it."""

    def loss(theta):
        x, y, z, w, *rest = theta
        return (EDGE + y) * x**2 / 2 - 2 * y + (0.95 * EDGE + 4 * w) * z**2 / 2 - 4 * w + sum(r**2 for r in rest)

    objective, start = Objective.create(loss, jnp.zeros(80)), jnp.eye(80)
    rule, tops = GradientDescent(ETA), {}
    for k, rows in {1: [0], 3: [0, 2, 4]}.items():
        state = ConstrainedState.at(jnp.zeros(80), start[jnp.array(rows)])
        for _ in range(60):
            state, record = stepped(objective, rule, state)
        w = float(record.theta[3])
        tops[k] = (0.95 * EDGE + 4 * w) / EDGE
    assert tops[1] > 1.1
    assert tops[3] <= 1 + 1e-4


def held(loss, rows, steps=4):
    """Records of so many steps from 0 with unit vectors as starts."""
    objective, state, records = (
        Objective.create(loss, jnp.zeros(80)),
        ConstrainedState.at(jnp.zeros(80), jnp.eye(80)[jnp.array(rows)]),
        [],
    )
    for _ in range(steps):
        state, record = stepped(objective, GradientDescent(ETA), state)
        records.append(record)
    return records


@pytest.mark.parametrize("fixed", [1 - 1e-5, 1 + 5e-5])
def test_a_direction_that_nothing_lowers_does_not_free_the_others(fixed):
    """Its eigenvalue is constant, just below the edge or within the tolerance above it; another is sharpened."""

    def loss(t):
        return EDGE * fixed * t[0] ** 2 / 2 + (EDGE + 4 * t[2]) * t[1] ** 2 / 2 - 4 * t[2] + jnp.sum(t[3:] ** 2) / 2

    records = held(loss, [0, 1, 3] if fixed > 1 else [1, 0, 3])
    assert {record.message for record in records} <= {ConstrainedStatus.BENT.message}
    assert {int(record.rounds) for record in records} == {0}
    for record in records:
        assert EDGE + 4 * float(record.theta[2]) <= EDGE * (1 + 1e-4)


def test_a_direction_that_is_needed_and_cannot_be_lowered_is_said():
    records = held(lambda t: EDGE * 1.01 * t[0] ** 2 / 2 + jnp.sum(t[1:] ** 2) / 2, [0, 1])
    assert records[0].message == ConstrainedStatus.NO_DIRECTION.message


def test_what_goes_wrong_is_said_in_words():
    quartic, rule = Quartic.draw(4), GradientDescent(ETA)
    _, record = stepped(quartic.objective, rule, quartic.state(3))
    assert ConstrainedStatus.words(record.status) == ConstrainedStatus.NO_MARGIN.message
    with pytest.raises(ValueError, match="thirds_every must be at least 1, got 0"):
        constrained_step(quartic.objective, rule, quartic.state(2), thirds_every=0)
    for k in (0, 24):
        with pytest.raises(ValueError, match=rf"or \(k, 70\) with 1 <= k <= p/3, got \({k}, 70\)"):
            constrained_step(quartic.objective, rule, quartic.state(k))
        with pytest.raises(ValueError, match=f"directions must lie in 1..23, got {k}"):
            track.track_from(
                quartic.objective, jnp.zeros(SIZE), jnp.eye(SIZE)[0], ETA, steps=1, options=Options(directions=k)
            )
        with pytest.raises(ValueError, match=f"directions must lie in 1..23, got {k}"):
            eoslib.constrained_gradient_descent(ETA, directions=k).init(jnp.zeros(SIZE))
    broken = Objective.create(lambda theta: quartic.loss(theta) * jnp.nan, jnp.zeros(SIZE))
    _, record = stepped(broken, rule, quartic.state(3))
    assert ConstrainedStatus.words(record.status) == ConstrainedStatus.NOT_FINITE.message


# --- projection -------------------------------------------------------------------------------------------------------


def test_the_projection_onto_several_eigenvalues_is_the_nearest_point():
    """θ₀ − θ = Σ s_i n_i + T⊥:C with C ⪰ 0 (KKT), λ₁ … λ₃ ≤ 2/η and u_i·∇L = 0, from a fifth of δ up each wall."""
    quartic = Quartic.draw(3)
    us, delta = quartic.leading(np.zeros(SIZE), 4)[1], (2 * 0.1) ** 0.5
    inward = np.einsum("iip->p", quartic.third[:3, :3])
    point = 0.2 * delta * us[:3].sum(0) + 0.05 * inward
    found = project(quartic.objective, jnp.asarray(point), jnp.asarray(us), ETA, tolerance=1e-9)
    theta = np.asarray(found.theta)
    assert int(found.status) == ProjectionStatus.ON_BOUNDARY
    values, us = quartic.leading(theta, 3)
    assert values[0] <= EDGE * (1 + 1e-9)
    assert np.abs(us @ quartic.gradient(theta)).max() <= 1e-3 * np.linalg.norm(quartic.gradient(theta))
    pairs = np.einsum("ijp,ai,bj->abp", quartic.tensor(theta), us, us)[np.triu_indices(3)]
    normals = np.concatenate([pairs, us])
    way = point - theta
    kept, *_ = np.linalg.lstsq(normals.T, way, rcond=None)
    assert np.linalg.norm(normals.T @ kept - way) <= 0.05 * np.linalg.norm(way)  # but for the tilt of the floor
    single = project(quartic.objective, jnp.asarray(point), jnp.asarray(us[0]), ETA)
    assert quartic.leading(np.asarray(single.theta), 1)[0][0] > EDGE * (1 + 1e-3)


def test_only_what_a_step_would_overshoot_has_a_floor():
    """S = 100 + 20y + 10z and λ₂ = 20 < 1/η = 45, along y: the nearest point, by hand, is −(S − 90)/|∇S|² ∇S away."""

    def loss(t):
        return (
            (100 + 20 * t[1] + 10 * t[2]) * t[0] ** 2 / 2 + 10 * t[1] ** 2 + t[2] ** 2 / 2 + 0.05 * jnp.sum(t[3:] ** 2)
        )

    objective, point = Objective.create(loss, jnp.zeros(80)), np.zeros(80)
    point[2] = 0.1
    expected = np.array([0, -11 * 20 / 500, 0.1 - 11 * 10 / 500])
    for k in (1, 2):
        found = project(objective, jnp.asarray(point), jnp.eye(80)[:k], 2 / 90)
        np.testing.assert_allclose(found.theta[:3], expected, atol=1e-5)
        assert int(found.status) == ProjectionStatus.ON_BOUNDARY


# --- predictions ------------------------------------------------------------------------------------------------------


def test_the_predicted_step_of_a_block_is_its_formula(walked):
    """By einsum from dense tensors, term by term."""
    quartic, _, records = walked
    record = records[10]
    theta, us = np.asarray(record.theta), np.asarray(record.geometry.vectors)
    v = 0.1 * np.random.default_rng(6).normal(size=SIZE)
    pairs, across = np.einsum("ijp,ai,bj->abp", quartic.tensor(theta), us, us), np.eye(SIZE) - us.T @ us
    hessian, x, w = quartic.hessian(theta), us @ v, np.asarray(record.multiplier)
    y = pairs @ across @ v
    outer = np.einsum("abp,a,b->p", pairs, x, x)
    force = hessian @ v + us.T @ (y @ x) + across @ outer / 2 + us.T @ (us @ outer) / 2
    expected = v - ETA * force + np.einsum("abp,ab->p", pairs @ across, w)
    following, at = block_predicted_step(quartic.objective, GradientDescent(ETA), jnp.asarray(v), record)
    np.testing.assert_allclose(following, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(at.block, x, rtol=1e-9)
    values = np.asarray(record.geometry.values)
    np.testing.assert_allclose(at.loss, record.geometry.loss + x @ (values * x) / 2, rtol=1e-9)
    top = np.linalg.eigvalsh(np.diag(values) + pairs @ v)[-1]
    np.testing.assert_allclose(at.sharpness, top, rtol=1e-8)
    # The generalized one: the true gradient within the block.
    along = np.asarray(record.theta) + us.T @ x
    inside = us @ (quartic.gradient(along) - quartic.gradient(theta))
    force = hessian @ (v - us.T @ x) + us.T @ (inside + y @ x) + across @ outer / 2
    expected = v - ETA * force + np.einsum("abp,ab->p", pairs @ across, w)
    following, at = generalized_predicted_step(quartic.objective, GradientDescent(ETA), jnp.asarray(v), record)
    np.testing.assert_allclose(following, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(at.loss, quartic.loss(jnp.asarray(along)) + x @ y @ x / 2, rtol=1e-9)


def test_gradient_descent_is_followed_with_three_directions_and_less_well_with_one():
    """Over 40 steps from .5√tr Σ within 1 % of |v|; with one direction, the null model, five times farther."""
    quartic, rule, errors = Quartic.draw(3, alpha=0.02), GradientDescent(ETA), {}
    start = 0.5 * (6 * 0.02) ** 0.5 * quartic.leading(np.zeros(SIZE), 3)[1].sum(0) / 3**0.5
    for k in (4, 1):
        state, v, theta, off, sizes = quartic.state(k), jnp.asarray(start), start, [], []
        for _ in range(40):
            state, record = stepped(quartic.objective, rule, state)
            real = theta - np.asarray(record.theta)
            off.append(np.linalg.norm(real - v))
            sizes.append(np.linalg.norm(real))
            v, _ = block_predicted_step(quartic.objective, rule, v, record)
            theta = theta - ETA * quartic.gradient(theta)
        errors[k] = max(off) / np.sqrt(np.mean(np.square(sizes)))
    assert errors[4] <= 0.01
    assert errors[1] > 5 * errors[4]


def test_the_central_flow_takes_the_path_of_the_constrained_trajectory(walked):
    """Within 1 % of √tr Σ over 60 steps, with the same tr Σ."""
    quartic, states, records = walked
    rule, central = GradientDescent(ETA), CentralState.at(jnp.zeros(SIZE), quartic.state(4).start)
    step = jax.jit(central_flow_step, static_argnames="substeps")
    traces = []
    for _ in range(60):
        central, moment = step(quartic.objective, rule, central)
        traces.append(float(moment.trace))
    size = (2 * float(jnp.trace(records[-1].multiplier)) / ETA) ** 0.5
    assert np.linalg.norm(np.asarray(states[-1].theta - central.theta)) <= 0.01 * size
    kept = [2 * float(jnp.trace(record.multiplier)) / ETA for record in records]
    np.testing.assert_allclose(traces[5:], kept[5:], rtol=2e-2)  # the first force acts at once, θ†'s one step later
    assert np.linalg.norm(np.asarray(states[-1].theta)) > 0.3 * size  # what a path that stays would score


# --- in tracks and in optax -------------------------------------------------------------------------------------------


def test_a_block_grows_and_shrinks_as_eigenvalues_near_the_edge():
    rule = GradientDescent(ETA)
    for values, now, wanted in (
        ([1, 0.5, 0.4], 2, 2), ([1, 0.91, 0.4], 2, 3), ([1, 0.87, 0.4], 3, 3), ([1, 0.84, 0.4], 3, 2),
        ([1, 1, 1], 3, 4), ([1] * 9, 5, 6), ([0.5, 0.4], 2, 2), ([1, 0.9001, 0.9, np.nan], 2, 3),
    ):  # fmt: skip
        assert track.wanted(EDGE * np.array(values), rule, 6, now) == wanted


@pytest.mark.parametrize("directions", [1, 2])
def test_within_the_stable_set_rounding_starts_no_prediction(directions):
    """Σ = 0 there, and x is 1e-6 where δ is 1."""

    def loss(t):
        return (
            (98 + 4 * t[1]) * t[0] ** 2 / 2
            - 4 * t[1]
            + 15 * t[3] ** 2
            + jnp.sum(t[4:] ** 2) / 2
            + 1e-3 * jnp.sin(t[0]) * t[5]
        )

    data = track.track_from(
        Objective.create(loss, jnp.zeros(80)), jnp.zeros(80).at[0].set(1e-6), jnp.eye(80)[0], ETA, steps=4,
        progress=False, options=Options(flow=False, directions=directions),
    )  # fmt: skip
    assert not data.predicting.values.any()
    assert not data.correction.values.any()


def followed(quartic, **options):
    return track.track_from(
        quartic.objective, jnp.zeros(SIZE), jnp.eye(SIZE)[0], ETA, steps=40, progress=False,
        options=Options(chunk=10, flow=False, kick=0.5, start=0.0, central=1, directions=5), **options,
    )  # fmt: skip


def test_a_track_records_the_block_and_a_cut_off_one_goes_on_to_the_same_numbers():
    """The block grows within it; what is recorded obeys its definitions."""
    quartic, kept = Quartic.draw(2, margin=0.899, seed=2, rise=0.05), []
    data = followed(quartic, save=lambda state, records: kept.append((state, {n: list(v) for n, v in records.items()})))
    sizes = data.block_size.values.astype(int)
    assert sizes[0] < sizes[-1]
    for t in (0, 39):
        k = sizes[t]
        assert np.isfinite(data.block_x.values[t, :k]).all()
        assert np.isnan(data.block_x.values[t, k:]).all()
    np.testing.assert_allclose(np.trace(data.covariance.fillna(0).values, axis1=1, axis2=2), data.covariance_trace)
    state, _ = kept[1][0]  # at t = 20
    basis = np.linalg.qr(np.asarray(state.constrained.start).T)[0]  # starts span the block, extrapolated
    along = basis.T @ np.asarray(state.descent.theta - state.constrained.theta)
    np.testing.assert_allclose(np.linalg.norm(data.block_x.values[20, : sizes[20]]), np.linalg.norm(along), rtol=1e-3)
    np.testing.assert_allclose(data.block_eigenvalues[:, 0], data.constrained_sharpness, rtol=1e-12)
    for row in VARIABLES:
        if row.place.removeprefix("norm of ").startswith(("block.", "central.")) or "direction" in row.dims:
            assert data[row.name].dims == row.dims
    assert float(data.violation.max()) <= 2e-5
    assert (np.diff(data.constrained_loss) < 0).all()
    assert float(data.unsolved.max()) <= 1e-10
    assert data.single_direction_until == 0
    assert float((data.predicted_error / data.distance).max()) < 0.1
    resumed = followed(quartic, restore=lambda _: kept[1])
    for name in data.variables:
        np.testing.assert_array_equal(resumed[name], data[name], err_msg=name)


def test_optax_holds_as_many_eigenvalues_as_it_is_asked_to():
    quartic = Quartic.draw(3)
    loss = lambda params: quartic.loss(params["w"])  # noqa: E731
    tops = {}
    for k in (1, 4):
        optimizer = eoslib.constrained_gradient_descent(ETA, directions=k, thirds_every=1)
        params = {"w": jnp.zeros(SIZE)}
        state = optimizer.init(params)
        for _ in range(40):
            updates, state = optimizer.update(None, state, params, loss_fn=loss)
            params = optax.apply_updates(params, updates)
        tops[k] = quartic.leading(np.asarray(params["w"]), 1)[0][0] / EDGE
    assert tops[4] <= 1 + 2e-5
    assert tops[1] > 1 + 2e-4  # what one direction lets through
    assert state.message == ConstrainedStatus.BENT.message
