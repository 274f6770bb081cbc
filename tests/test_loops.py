"""The loop that runs at least once, against a loop in Python; how often its body is traced and run."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoslib.loops import do_while


class Pair(NamedTuple):
    total: jax.Array
    count: jax.Array


def body(carry):
    """Add the count to the total until that reaches 20; the result is not the carry."""
    total = carry.total + carry.count.astype(float)
    return {"square": total**2, "even": carry.count % 2 == 0}, Pair(total, carry.count + 1), total < 20


looped = jax.jit(lambda carry: do_while(body, carry))


@settings(max_examples=30)
@given(st.floats(-10, 50), st.integers(0, 30))
def test_it_is_a_loop_that_asks_at_its_end(total, count):
    carry = Pair(jnp.asarray(total), jnp.asarray(count))
    found, again = looped(carry), True
    while again:
        result, carry, again = body(carry)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves((result, carry)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-14)
    assert isinstance(found[1], Pair)


@pytest.mark.parametrize(("limit", "runs"), [(-1, 1), (0, 1), (1, 1), (2, 2), (7, 7)])
def test_it_runs_at_least_once(limit, runs):
    count, following = do_while(lambda i: (i + 1, i + 1, i + 1 < limit), jnp.zeros((), int))
    assert (int(count), int(following)) == (runs, runs)


def test_the_body_is_traced_once_for_its_shapes_and_once_for_its_program():
    traced, ran = [], []

    def watched(i):
        traced.append(1)
        jax.debug.callback(lambda: ran.append(1))
        return i, i + 1, i < 4

    program = jax.jit(lambda i: do_while(watched, i))
    jax.block_until_ready((program(0), program(2)))
    jax.effects_barrier()
    assert len(traced) == 2
    assert len(ran) == 5 + 3  # tracing it for its shapes runs nothing


def test_a_python_number_takes_the_precision_that_the_body_gives_it():
    _, carry = do_while(lambda x: (x > 1, x * jnp.float32(0.5), x > 1), 8.0)
    assert carry.dtype == jnp.float32
    assert float(carry) == 0.5


def test_it_works_side_by_side_with_each_its_own_number_of_runs():
    starts = jnp.array([1.0, 8.0, 1000.0])
    _, found = jax.vmap(lambda x: do_while(lambda x: (x, x / 2, x > 1), x))(starts)
    np.testing.assert_array_equal(found, [0.5, 0.5, 1000 / 2**11])


def test_a_body_that_changes_the_carry_s_precision_is_refused():
    with pytest.raises(TypeError, match="the body turns a carry of float64 into float32"):
        do_while(lambda x: (x, x.astype(jnp.float32), x > 1), jnp.array(4.0, jnp.float64))
