"""Positions: sums and displacements against float64, in and out of jit, scan and vmap; what they accept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoslib.objective import Objective
from eoslib.position import Position

EPS = np.finfo(np.float32).eps
RNG = np.random.default_rng(0)


def walk(position, moves):
    return jax.lax.scan(lambda here, move: (here + move, None), position, moves)[0]


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1.0])
@pytest.mark.parametrize("how", [walk, jax.jit(walk)], ids=["scan", "jit"])
def test_small_moves_add_up_as_in_float64(ordinary, how, size):
    """A thousand moves; a plain float32 vector loses all those of 1e-9, which this null model shows."""
    start = RNG.normal(size=200)
    moves = (size * RNG.normal(size=(1000, 200))).astype(np.float32)
    end, total = start + moves.sum(axis=0, dtype=np.float64), np.abs(moves).sum(axis=0, dtype=np.float64).max()
    position = Position.of(start, jnp.float32)
    reached = how(position, moves)
    np.testing.assert_allclose(np.asarray(reached), end, rtol=0, atol=1000 * EPS**2 * (np.abs(start).max() + total))
    np.testing.assert_allclose(reached - position, end - start, rtol=0, atol=4 * EPS * total)
    plain = how(jnp.asarray(start, jnp.float32), moves)
    assert np.abs(plain - end).max() > 1e4 * np.abs(np.asarray(reached) - end).max()


def test_positions_side_by_side_move_as_one_does(ordinary):
    starts, moves = RNG.normal(size=(3, 20)), (1e-7 * RNG.normal(size=(50, 20))).astype(np.float32)
    together = jax.jit(jax.vmap(walk, in_axes=(0, None)))(Position.of(starts, jnp.float32), moves)
    for row, start in zip(np.asarray(together), starts):
        np.testing.assert_array_equal(row, np.asarray(walk(Position.of(start, jnp.float32), moves)))


#: Zero, or of a size from which no error of a sum is subnormal: XLA flushes those.
NUMBERS = st.one_of(st.just(0.0), st.floats(2.0**-60, 2.0**20, width=32), st.floats(-(2.0**20), -(2.0**-60), width=32))


@given(NUMBERS, NUMBERS)
def test_the_sum_of_two_numbers_is_exact(a, b):
    found = Position.of(np.float32([a])) + jnp.float32([b])
    assert np.asarray(found)[0] == float(a) + float(b)  # each side rounded to float64 once


def test_differences_are_displacements_from_either_side(ordinary):
    wide = RNG.normal(size=5)
    here, vector = Position.of(wide, jnp.float32), np.ones(5, np.float32)
    for one, other in ((here, vector), (here, jnp.asarray(vector)), (here, np.ones(5))):
        np.testing.assert_allclose(one - other, wide - 1, rtol=EPS)
        np.testing.assert_allclose(other - one, 1 - wide, rtol=EPS)
    assert isinstance(vector + here, Position)
    np.testing.assert_allclose(here.astype(jnp.float32), wide, rtol=EPS)
    assert np.asarray(here).dtype == np.float64
    assert np.asarray(here, np.float32).dtype == np.float32


def test_an_objective_takes_any_theta_in_the_precision_it_has(ordinary):
    objective = Objective.create(lambda p: jnp.sum(p**2), jnp.ones(3))
    for plain in (np.ones(3, np.float32), jnp.ones(3), jnp.ones(3, jnp.bfloat16)):
        assert objective.position(plain).dtype == jnp.float32
        assert isinstance(objective.position(plain), jax.Array)
    wide = np.array([1.0, 2.0, 3.0]) + 1e-12
    found = objective.position(wide)
    np.testing.assert_allclose(np.asarray(found), wide, rtol=EPS**2)
    assert objective.position(found) is found
    with jax.enable_x64(True):  # where a user has switched it on
        np.testing.assert_allclose(np.asarray(objective.position(jnp.asarray(wide))), wide, rtol=EPS**2)
        traced = jax.jit(objective.position)(wide)
        np.testing.assert_allclose(np.asarray(traced), wide, rtol=EPS**2)
        assert Position.of(jnp.asarray(wide)).dtype == jnp.float64


@pytest.mark.parametrize("theta", [np.ones(4), np.ones(3, int), [[1.0]]], ids=["long", "integer", "matrix"])
def test_what_is_no_position_is_named(ordinary, theta):
    objective = Objective.create(lambda p: jnp.sum(p**2), jnp.ones(3))
    with pytest.raises(ValueError, match=r"theta must (be floating point, got int64|have shape)"):
        objective.position(theta)
