"""Gradient flow against fine integration and closed forms: accuracy, cost, and how it ends."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.integrate

from eoslib.rules import GradientDescent
from eoslib.trajectories.flow import flow_start, flow_step

# Without the tests' checks of types, so that one program serves every tolerance.
stepped = jax.jit(inspect.unwrap(flow_step))
RULE = GradientDescent(oracles.RATE)
STEPS = 60  # of gradient descent, at the edge


@pytest.fixture(scope="module")
def fine(network, edge):
    """The flow from the edge on, integrated to near rounding by scipy."""
    dense = network[2]
    solution = scipy.integrate.solve_ivp(
        lambda _, z: -np.asarray(dense.gradient(jnp.asarray(z))), (0, STEPS * RULE.learning_rate), np.asarray(edge[0]),
        method="DOP853", rtol=1e-11, atol=1e-13,
    )  # fmt: skip
    return solution.y[:, -1]


def flow_to_end(objective, theta, u, tolerance, pieces=1):
    state, gradients = flow_start(objective, theta, u), 0
    for _ in range(pieces):
        state, record = stepped(objective, RULE, state, STEPS / pieces, tolerance=tolerance)
        gradients += int(record.gradients)
    return state, gradients


def test_the_flow_honours_its_tolerance(network, edge, fine):
    """Local errors are below tolerance × distance each step; the flow contracts, so that they add up to no more."""
    objective, _, dense = network
    travelled, errors, costs = np.linalg.norm(fine - edge[0]), [], []
    for tolerance in (1e-2, 1e-3, 1e-4):
        state, cost = flow_to_end(objective, *edge, tolerance)
        errors.append(np.linalg.norm(state.theta - fine) / travelled)
        costs.append(cost)
        np.testing.assert_allclose(state.loss, dense.loss(state.theta), rtol=1e-12)
        np.testing.assert_allclose(state.gradient, dense.gradient(state.theta), rtol=1e-9, atol=1e-12)
        assert errors[-1] <= 3 * tolerance
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert costs[0] < costs[1] < costs[2]


def test_a_flow_in_pieces_is_the_flow(network, edge, fine):
    """An interval's end cuts a step short without spoiling the next trial."""
    whole, cost = flow_to_end(network[0], *edge, 1e-3)
    pieces, cost_in_pieces = flow_to_end(network[0], *edge, 1e-3, pieces=7)
    travelled = np.linalg.norm(fine - edge[0])
    assert np.linalg.norm(pieces.theta - fine) <= 3e-3 * travelled
    assert np.linalg.norm(pieces.theta - whole.theta) <= 3e-3 * travelled
    assert cost_in_pieces <= 3 * cost


def test_stiffness_costs_a_square_root(toy_objective):
    """Stable on x' = −S x for any S, in closed form; the stages grow like √(duration × S), those of Euler like S."""
    costs = []
    for rate in (2e-2, 2e-4):  # S = 100, 10⁴
        toy = oracles.Toy(learning_rate=rate, drift=1.0)
        objective = dataclasses.replace(toy_objective, batch=toy.constants)
        state = flow_start(objective, jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]))
        state, record = stepped(objective, GradientDescent(rate), state, 0.5 / rate, tolerance=1e-3)
        np.testing.assert_allclose(state.theta, [0, 0.5, 0.5], atol=1e-9)  # x = 0, y = ατ/√β, z = gτ
        np.testing.assert_allclose(record.sharpness, 2 / rate, rtol=1e-9)
        costs.append(int(record.gradients))
        assert int(record.rejected) == 0
    assert costs[1] <= 2 * np.sqrt(1.54 * 0.5 * 1.1 * 1e4)
    assert costs[1] <= 15 * costs[0]  # a hundred times the sharpness, ten times the stages


def test_a_flow_that_cannot_go_on_ends_as_not_a_number(toy_objective):
    state = flow_start(toy_objective, jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]))
    broken = dataclasses.replace(toy_objective, batch=tuple(jnp.nan * c for c in toy_objective.batch))
    end, _ = stepped(broken, RULE, state, 5, tolerance=1e-3)
    assert np.isnan(end.loss)
    assert np.isnan(end.theta).all()
