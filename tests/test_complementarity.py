"""The complementarity problem of several directions, against its closed forms and an interior-point solver."""

import math
from functools import partial

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eoslib import complementarity
from eoslib.complementarity import ComplementarityStatus, rotation, smat, solve, svec

SOLVED, UNSOLVED, NO_SOLUTION, NOT_FINITE = map(int, ComplementarityStatus)
KINDS = ("random", "interior", "degenerate", "margin", "weak", "ill-conditioned")
#: Bounds that the library states, eps^¾ and √eps; and what rounding leaves of the residual in all these problems.
TOLERATED = {np.float32: (6.5e-6, 3.5e-4), np.float64: (1.9e-12, 1.5e-8)}
REACHED = {np.float32: 4e-6, np.float64: 1e-14}
DTYPES = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])


def weights(k):
    i, j = np.triu_indices(k)
    return i, j, np.where(i == j, 1, math.sqrt(2))


def vector(matrix):
    """svec, written apart from the library's."""
    i, j, weight = weights(len(matrix))
    return matrix[i, j] * weight


def matrix(vector, k):
    i, j, weight = weights(k)
    found = np.zeros((k, k))
    found[i, j] = found[j, i] = vector / weight
    return found


def draw(kind, k, rng):
    """One problem (𝒢, B): constraint gradients are normal rows; of W and S one or both may be prescribed."""
    i, j, _ = weights(k)
    n, basis = len(i), np.linalg.qr(rng.normal(size=(k, k)))[0]
    rows = rng.normal(size=(n, 3 * n))
    if kind == "weak":  # off-diagonal pairs couple weakly
        rows[i != j] *= 10 ** rng.uniform(-5, -1)
    if kind == "ill-conditioned":  # condition number 1e6
        rows = np.linalg.qr(rng.normal(size=(n, n)))[0] * 10 ** np.linspace(0, -3, n)
    gram, slack = rows @ rows.T, rng.normal(size=(k, k))
    w, s = rng.uniform(0.5, 2, k), np.zeros(k)
    if kind == "degenerate":  # one direction in neither W nor S
        w[: k - 1], s[: k - 2] = 0, 1
    if kind == "margin":  # one direction far inside
        w[0], s[0] = 0, rng.uniform(25, 100)
    if kind in ("interior", "degenerate", "margin"):
        slack = basis * s @ basis.T - matrix(gram @ vector(basis * w @ basis.T), k)
    return gram, (slack + slack.T) / 2


def problems(kind, k, count, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    grams, slacks = zip(*(draw(kind, k, rng) for _ in range(count)))
    return jnp.asarray(np.array(grams), dtype), jnp.asarray(np.array(slacks), dtype)


def residual(gram, slack, value):
    """The residual in float64, in the units that the library states, and ‖W‖ in them, at least 1."""
    gram, slack, value = (np.asarray(x, np.float64) for x in (gram, slack, value))
    k, scale, unit = len(slack), np.trace(gram) / len(gram), np.abs(slack).max()
    w, s = value * scale / unit, (slack + matrix(gram @ vector(value), k)) / unit
    m, q = np.linalg.eigh(w - s)
    return np.array([np.linalg.norm(w - (q * np.maximum(m, 0)) @ q.T), max(1, np.linalg.norm(w))])


def residuals(grams, slacks, values):
    return np.array([residual(*each) for each in zip(grams, slacks, values, strict=True)]).reshape(-1, 2).T


def assert_solved(grams, slacks, values, dtype):
    """Within the bounds that the library states, by an evaluation in float64 apart from it."""
    size, extent = residuals(grams, slacks, values)
    assert (size <= 1.5 * np.minimum(TOLERATED[dtype][0] * extent, TOLERATED[dtype][1])).all()


solve_all = jax.jit(jax.vmap(solve))
newton_alone = jax.jit(jax.vmap(partial(complementarity._solve, smoothed=True)))


def test_the_dot_product_of_coordinates_is_the_trace_product():
    rng = np.random.default_rng(0)
    for k in (1, 2, 5, 8):
        a, b = (jnp.asarray(z + z.swapaxes(-1, -2)) for z in rng.normal(size=(2, 3, k, k)))
        np.testing.assert_allclose(svec(a), [vector(z) for z in np.asarray(a)], rtol=1e-15)
        np.testing.assert_allclose(smat(svec(a)), a, rtol=1e-15)
        np.testing.assert_allclose(np.sum(svec(a) * svec(b), -1), np.trace(a @ b, axis1=-2, axis2=-1), rtol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 4), (5, 3)])
def test_rotation_carries_coordinates_from_basis_to_basis(shape):
    rng = np.random.default_rng(1)
    q, z = jnp.asarray(rng.normal(size=shape)), rng.normal(size=(shape[1],) * 2)
    z = jnp.asarray(z + z.T)
    np.testing.assert_allclose(rotation(q) @ svec(z), svec(q @ z @ q.T), rtol=1e-12, atol=1e-12)
    orthogonal = rotation(jnp.linalg.qr(jnp.asarray(rng.normal(size=(4, 4))))[0])
    np.testing.assert_allclose(orthogonal @ orthogonal.T, np.eye(10), atol=1e-14)


@DTYPES
def test_one_direction_has_its_closed_form_to_the_bit(dtype):
    rng = np.random.default_rng(2)
    beta, slack = np.abs(rng.normal(size=1000)).astype(dtype), rng.normal(size=1000).astype(dtype)
    beta[::2] = 1
    found = solve_all(beta[:, None, None], slack[:, None, None])
    np.testing.assert_array_equal(found.value[:, 0, 0], np.maximum(-slack, 0) / beta)
    assert found.value.dtype == found.slack.dtype == found.residual.dtype == dtype
    assert set(np.asarray(found.status)) == {SOLVED}
    assert not np.asarray(found.iterations).any()


@pytest.mark.parametrize(("beta", "slack", "status"), [(0, -1, NO_SOLUTION), (0, 1, SOLVED), (1e-45, -1, NO_SOLUTION)])
def test_one_direction_without_a_gradient(beta, slack, status):
    found = solve(jnp.full((1, 1), beta, jnp.float32), jnp.full((1, 1), slack, jnp.float32))
    assert (int(found.status), float(found.value[0, 0]), float(found.slack[0, 0])) == (status, 0, slack)


def interior_point(gram, slack):
    """The minimum of ½⟨W, 𝒢W⟩ + ⟨W, B⟩ over W ⪰ 0 by Clarabel."""
    k, factor = len(slack), np.linalg.cholesky(gram)
    w = cvxpy.Variable((k, k), PSD=True)
    coordinates = cvxpy.hstack([w[i, j] * weight for i, j, weight in zip(*weights(k))])
    objective = cvxpy.sum_squares(factor.T @ coordinates) / 2 + cvxpy.trace(w @ slack)
    cvxpy.Problem(cvxpy.Minimize(objective)).solve(cvxpy.CLARABEL)
    return w.value


@pytest.mark.parametrize("k", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", KINDS[:5])
def test_it_is_the_minimum_of_the_convex_problem(kind, k):
    grams, slacks = problems(kind, k, 3 if k < 8 else 1, seed=k)
    for gram, slack, found in zip(np.asarray(grams), np.asarray(slacks), np.asarray(solve_all(grams, slacks).value)):
        unit = np.abs(slack).max() * len(gram) / np.trace(gram)
        np.testing.assert_allclose(found, interior_point(gram, slack), atol=2e-4 * unit)


@DTYPES
@pytest.mark.parametrize("k", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_every_draw_is_solved_to_rounding(kind, k, dtype):
    """But in float32 where W is so large that its own rounding changes S visibly: then the status says so."""
    grams, slacks = problems(kind, k, 100 if k < 8 else 20, dtype)
    found = solve_all(grams, slacks)
    solved = np.asarray(found.status) == SOLVED
    if kind == "ill-conditioned" and dtype == np.float32:
        exact = solve_all(*(np.asarray(x, np.float64) for x in (grams, slacks)))
        assert (residuals(grams, slacks, exact.value)[1][~solved] > 800).all()
        assert solved.mean() > 0.4
    else:
        assert solved.all()
    if kind in KINDS[:4]:
        assert int(found.iterations.max()) <= 10  # Newton's method with the right derivative
    assert_solved(*(x[solved] for x in (grams, slacks, found.value)), dtype)
    size, extent = residuals(grams, slacks, found.value)
    assert (size < REACHED[dtype] * extent)[solved].all()
    values = np.asarray(found.value)
    assert (np.linalg.eigvalsh(values)[:, 0] >= -REACHED[dtype] * np.linalg.norm(values, axis=(1, 2))).all()


def test_newton_alone_fails_where_couplings_are_weak():
    """The null model: without the smoothed problem the solver fails, and says so."""
    for k, least in ((2, 0.05), (3, 0.25), (4, 0.4)):
        grams, slacks = problems("weak", k, 100)
        found = newton_alone(grams, slacks, jnp.zeros_like(slacks))
        failed = np.asarray(found.status) != SOLVED
        assert failed.mean() > least
        assert (residuals(*(x[failed] for x in (grams, slacks, found.value)))[0] > 1e-3).all()
        assert_solved(*(x[~failed] for x in (grams, slacks, found.value)), np.float64)


def test_another_basis_gives_the_same_multiplier():
    for kind in KINDS[:4]:
        (gram,), (slack,) = problems(kind, 3, 1, seed=3)
        q = jnp.asarray(np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0])
        turned = solve(rotation(q) @ gram @ rotation(q).T, q @ slack @ q.T)
        value = solve(gram, slack).value
        np.testing.assert_allclose(turned.value, q @ value @ q.T, atol=1e-10 * np.abs(value).max())


@DTYPES
@pytest.mark.parametrize("kind", KINDS[:5])
def test_a_start_at_the_solution_is_the_solution(kind, dtype):
    grams, slacks = problems(kind, 4, 100, dtype)
    cold = solve_all(grams, slacks)
    warm = solve_all(grams, slacks, cold.value)
    # The goal is a few roundings: a solution may stand one step above it, or two where W is large.
    assert int(warm.iterations.max()) <= 2
    assert (np.asarray(warm.iterations) <= 1).mean() >= 0.95
    assert int(warm.iterations.sum()) < 0.2 * int(cold.iterations.sum())
    assert set(np.asarray(warm.status)) == {SOLVED}


def test_nothing_is_done_where_the_slack_is_positive_semidefinite():
    (gram,), _ = problems("random", 3, 1)
    for slack in (jnp.zeros((3, 3)), jnp.diag(jnp.array([2.0, 1.0, 0.0]))):
        found = solve(gram, slack, jnp.eye(3))
        assert int(found.iterations) == 0
        assert not np.asarray(found.value).any()
        np.testing.assert_array_equal(found.slack, slack)


@DTYPES
def test_a_scale_makes_no_difference(dtype):
    (gram,), (slack,) = problems("random", 3, 1, dtype)
    value = solve(gram, slack).value
    for a, b in ((2.0**-60, 2.0**40), (2.0**50, 2.0**-50)):
        found = solve(gram * dtype(a), slack * dtype(b))
        np.testing.assert_array_equal(found.value, value * dtype(b / a))


@DTYPES
def test_a_problem_without_a_solution_says_so(dtype):
    """The zero Gram matrix, and those that lack a direction: never a multiplier that is none."""
    slack = jnp.asarray(np.diag([1.0, -1.0, -0.5]), dtype)
    found = solve(jnp.zeros((6, 6), dtype), slack)
    assert found.message == ComplementarityStatus.NO_SOLUTION.message
    assert not np.asarray(found.value).any()
    rng = np.random.default_rng(5)
    factors = rng.normal(size=(200, 6, 2))
    grams = jnp.asarray(factors @ factors.swapaxes(-1, -2), dtype)
    slacks = rng.normal(size=(200, 3, 3))
    slacks = jnp.asarray(slacks + slacks.swapaxes(-1, -2), dtype)
    found = solve_all(grams, slacks)
    status, solved = np.asarray(found.status), np.asarray(found.status) == SOLVED
    assert np.isfinite(found.value).all()
    assert {SOLVED, NO_SOLUTION} <= set(status) <= {SOLVED, NO_SOLUTION, UNSOLVED}
    assert (status == UNSOLVED).mean() < 0.3
    assert_solved(*(x[solved] for x in (grams, slacks, found.value)), dtype)
    assert not np.asarray(found.value)[status == NO_SOLUTION].any()


@DTYPES
def test_an_indefinite_gram_matrix_gives_no_silent_multiplier(dtype):
    rng = np.random.default_rng(6)
    grams, slacks = (z + z.swapaxes(-1, -2) for z in (rng.normal(size=(100, s, s)) for s in (6, 3)))
    grams, slacks = jnp.asarray(grams, dtype), jnp.asarray(slacks, dtype)
    found = solve_all(grams, slacks)
    assert np.isfinite(found.value).all()
    assert set(np.asarray(found.status)) > {SOLVED}
    solved = (np.trace(grams, axis1=1, axis2=2) > 0) & (np.asarray(found.status) == SOLVED)  # else it is no unit
    assert solved.any()
    assert_solved(*(x[solved] for x in (grams, slacks, found.value)), dtype)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_gives_zeros_and_says_so(bad, k):
    (gram,), (slack,) = problems("random", k, 1)
    for found in (solve(gram.at[0, 0].set(bad), slack), solve(gram, slack.at[0, 0].set(bad))):
        assert int(found.status) == NOT_FINITE
        assert not np.asarray(found.value).any()
        assert np.isfinite(found.slack).all()
        assert float(found.residual) == np.inf
    guess = solve(gram, slack, jnp.full((k, k), bad))
    np.testing.assert_array_equal(guess.value, solve(gram, slack).value)


def test_no_unused_branch_makes_nan():
    with jax.debug_nans(True):
        for kind in KINDS:
            solve_all(*problems(kind, 3, 20))
        (gram,), (slack,) = problems("random", 2, 1)
        for g, b in ((gram, slack), (gram * 0, slack), (gram * 0, slack * 0), (-gram, slack)):
            solve(g, b)
        solve(jnp.zeros((1, 1)), -jnp.ones((1, 1)))


@pytest.mark.usefixtures("ordinary")
def test_it_works_in_a_scan_in_32_bits():
    (gram,), (slack,) = problems("random", 3, 1, np.float32)

    @jax.jit
    def follow(gram, slack):
        def step(w, t):
            found = solve(gram, slack - 0.01 * t * jnp.eye(3), w)
            return found.value, found

        return jax.lax.scan(step, jnp.zeros((3, 3)), jnp.arange(20.0))[1]

    found = follow(gram, slack)
    assert found.value.dtype == jnp.float32
    assert found.message == [ComplementarityStatus.SOLVED.message] * 20
    assert np.asarray(found.iterations)[1:].max() <= 3
    assert solve(np.eye(3), [[-1, 0], [0, 1]]).value.dtype == jnp.float32


@pytest.mark.parametrize(
    ("gram", "slack", "start", "message"),
    [
        (np.eye(3), np.eye(3), None, r"gram must have shape \(6, 6\) for a slack of 3 rows, got \(3, 3\)"),
        (np.eye(3), np.ones((2, 3)), None, r"slack must have shape \(2, 2\).*got \(2, 3\)"),
        (np.eye(3), np.ones(2), None, r"slack must have shape .*got \(2,\)"),
        (np.eye(0), np.ones((0, 0)), None, r"slack must have shape .*got \(0, 0\)"),
        (np.eye(3), np.eye(2), np.eye(3), r"start must have shape \(2, 2\).*got \(3, 3\)"),
        (np.eye(3), np.array([[1.0, 2.0], [0.0, 1.0]]), None, "slack must be symmetric, got .* by 2"),
        (np.eye(3) + np.eye(3, k=1), np.eye(2), None, "gram must be symmetric, got .* by 1"),
    ],
)
def test_wrong_arguments_are_refused(gram, slack, start, message):
    with pytest.raises(ValueError, match=message):
        solve(gram, slack, start)
