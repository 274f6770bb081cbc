"""Leading eigenpairs against prescribed spectra, dense solves and scipy's eigsh; how a solve ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from eoslib.eigen import (
    DENSE_LIMIT,
    EigenStatus,
    gaps,
    improved_eigenpair,
    leading_eigenpair,
    leading_eigenpairs,
    resolve_tolerance,
)
from eoslib.geometry import local_geometry
from eoslib.objective import Objective
from eoslib.trajectories import track

SIZE = 200


@jax.jit(static_argnames=("tolerance", "max_products", "dense_limit"))
def solve(matrix, start, tolerance=1e-8, max_products=2000, dense_limit=DENSE_LIMIT):
    return leading_eigenpairs(
        lambda v: matrix @ v, start, tolerance=tolerance, max_products=max_products, dense_limit=dense_limit
    )


def with_spectrum(values, seed=3):
    """A symmetric matrix with these eigenvalues in a random basis."""
    values = np.asarray(values)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(values.size, values.size)))[0]
    return jnp.asarray((basis * values) @ basis.T)


def random_start(k, size=SIZE, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(k, size)))


def assert_are_eigenpairs(pairs, matrix, tolerance):
    """What the solver says of itself is true: orthonormal vectors, residuals as stated and within tolerance."""
    assert int(pairs.status) == EigenStatus.CONVERGED
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(pairs.values.size), atol=1e-10)
    residuals = jnp.linalg.norm(pairs.vectors @ matrix - pairs.values[:, None] * pairs.vectors, axis=1)
    # The solver's images are updated with its vectors and not applied afresh: they drift by rounding alone.
    np.testing.assert_allclose(pairs.residuals, residuals, atol=1e-12 * float(jnp.linalg.norm(matrix, 2)))
    assert (np.asarray(pairs.residuals) <= tolerance * np.abs(pairs.values)).all()
    assert (np.diff(pairs.values) <= 0).all()


@pytest.mark.parametrize("rest", [[], np.linspace(-50, 8, 100)], ids=["dense", "iterated"])
def test_the_largest_algebraic_eigenvalue_is_meant(rest):
    matrix = with_spectrum([-100.0, 9.0, *rest])
    pairs = solve(matrix, random_start(1, len(matrix)))
    np.testing.assert_allclose(pairs.values, [9.0], rtol=1e-12)
    assert_are_eigenpairs(pairs, matrix, 1e-8)


def test_a_negative_definite_operator_has_its_largest_eigenvalue_too():
    matrix = with_spectrum(-np.linspace(1, 30, SIZE))
    np.testing.assert_allclose(solve(matrix, random_start(1)).values, [-1.0], rtol=1e-9)


def test_a_tiny_problem_is_solved_densely():
    matrix = with_spectrum(np.linspace(-1, 1, DENSE_LIMIT))
    dense = solve(matrix, random_start(2, DENSE_LIMIT))
    assert int(dense.products) == DENSE_LIMIT
    np.testing.assert_allclose(dense.values, np.linalg.eigvalsh(matrix)[::-1][:2], atol=1e-13)
    iterated = solve(matrix, random_start(2, DENSE_LIMIT), dense_limit=0)
    np.testing.assert_allclose(iterated.values, dense.values, atol=1e-12)
    np.testing.assert_allclose(jnp.abs(jnp.sum(iterated.vectors * dense.vectors, axis=1)), 1, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3, 1e-4])
def test_prescribed_gaps_against_eigsh(gap, k):
    matrix = with_spectrum([1.0, 1 - gap, 1 - 3 * gap, *np.linspace(-2, 0.5, SIZE - 3)])
    pairs = solve(matrix, random_start(k))
    values, vectors = scipy.sparse.linalg.eigsh(np.asarray(matrix), k=k, which="LA")
    order = np.argsort(values)[::-1]
    assert_are_eigenpairs(pairs, matrix, 1e-8)
    # Second order in the residual over the gap: 1e-16/1e-4, a digit above it for the block.
    np.testing.assert_allclose(pairs.values, values[order], atol=1e-11)
    # A vector is off by its residual over the distance to the next eigenvalue.
    cosines = np.abs(np.sum(np.asarray(pairs.vectors) * vectors.T[order], axis=1))
    np.testing.assert_array_less(1 - cosines, (1e-8 / gap) ** 2 + 1e-12)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3])
def test_the_value_is_second_order_in_the_residual(tolerance):
    matrix = with_spectrum([1.0, 0.6, *np.linspace(-1, 0.5, SIZE - 2)])
    pairs = solve(matrix, random_start(1), tolerance=tolerance)
    error, residual = 1 - float(pairs.values[0]), float(pairs.residuals[0])
    gap = float(pairs.values[0]) - 0.6
    assert error <= residual**2 / gap * (1 + 1e-9)  # Kato and Temple
    assert error >= residual**2 / (float(pairs.values[0]) + 1) * (1 - 1e-9)  # Bhatia and Davis, λ_min = −1


def counted(matrix):
    """The operator, and a list that grows by one entry for each vector that it is applied to."""
    calls = []

    def matvec(v):
        jax.debug.callback(lambda: calls.append(1))
        return matrix @ v

    return matvec, calls


def test_one_product_an_iteration():
    limit = 17
    matvec, calls = counted(with_spectrum(np.linspace(0, 1, SIZE)))
    pairs = leading_eigenpair(matvec, random_start(1)[0], tolerance=1e-10, max_products=limit)
    jax.block_until_ready(pairs)
    jax.effects_barrier()
    assert len(calls) == int(pairs.products) == limit
    assert EigenStatus(int(pairs.status)) is EigenStatus.PRODUCT_LIMIT
    assert "limit on products was reached" in EigenStatus(int(pairs.status)).message
    assert np.isfinite(pairs.values).all()  # what was found so far is kept


def test_the_work_is_about_that_of_conjugate_gradients():
    """At a relative gap of 1/100 conjugate gradients need some √100 products a digit; a power method, 230 a digit."""
    pairs = solve(with_spectrum([1.0, 0.99, *np.linspace(0, 0.9, SIZE - 2)]), random_start(1))
    assert int(pairs.products) <= 120


@pytest.mark.parametrize("k", [1, 3])
def test_a_warm_start_is_cheap(k):
    values = np.array([1.0, 0.7, 0.55, *np.linspace(-1, 0.4, SIZE - 3)])
    matrix = with_spectrum(values)
    cold = solve(matrix, random_start(k), tolerance=1e-3)
    same = solve(matrix, cold.vectors, tolerance=1e-3)
    assert int(same.products) == k  # looked at, found good
    noise = np.random.default_rng(1).normal(size=(SIZE, SIZE)) / SIZE**0.5
    moved = matrix + 2e-3 * jnp.asarray(noise + noise.T)
    warm = solve(moved, cold.vectors, tolerance=1e-3)
    assert int(warm.status) == EigenStatus.CONVERGED
    assert int(warm.products) <= 6 * k < int(cold.products)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 3))
def test_any_spectrum_any_basis(seed, k):
    """Simple or clustered, positive or negative: what comes back are the k largest eigenvalues."""
    rng = np.random.default_rng(seed)
    values = np.sort(rng.normal(size=SIZE) * 10 ** rng.uniform(-3, 3))[::-1]
    matrix = with_spectrum(values, seed)
    pairs = solve(matrix, random_start(k, seed=seed))
    residuals = 1e-8 * np.abs(pairs.values)
    assert int(pairs.status) == EigenStatus.CONVERGED
    # Each value is a Rayleigh–Ritz value, so never above, and below by no more than its residual.
    assert (np.asarray(pairs.values) <= values[:k] + 1e-12 * np.abs(values).max()).all()
    np.testing.assert_array_less(values[:k] - np.asarray(pairs.values), residuals + 1e-12 * np.abs(values).max())


@pytest.mark.parametrize("first", [2.0, 10.0, 100.0])
def test_a_pair_that_converged_early_does_not_spoil_the_rest(first):
    """The pair far ahead waits, its residual at rounding, while the cluster behind it takes its time."""
    matrix = with_spectrum([first, *(1 - 1e-3 * np.arange(5)), *np.linspace(-1, 0.9, SIZE - 6)])
    pairs = solve(matrix, random_start(3))
    np.testing.assert_allclose(pairs.values, [first, 1, 1 - 1e-3], atol=1e-8 * first)
    assert_are_eigenpairs(pairs, matrix, 1e-8)


def test_one_pair_comes_on_the_side_of_its_start():
    matrix = with_spectrum([1.0, 0.5, *np.linspace(-1, 0.4, SIZE - 2)])
    start = random_start(1)[0]
    solve = jax.jit(lambda start: leading_eigenpair(lambda v: matrix @ v, start, tolerance=1e-8))
    one, other = solve(start), solve(-start)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-13)
    np.testing.assert_allclose(one.vectors, -other.vectors, atol=1e-10)
    assert float(one.vectors[0] @ start) > 0


@pytest.mark.parametrize("size", [5, SIZE], ids=["dense", "iterated"])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_an_operator_that_is_not_finite_is_reported(size, bad):
    pairs = solve(bad * jnp.eye(size), random_start(1, size))
    assert EigenStatus(int(pairs.status)) is EigenStatus.NOT_FINITE
    assert "not finite" in EigenStatus.NOT_FINITE.message
    assert int(pairs.products) <= 5  # it does not go on


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, SIZE), {"tolerance": 1e-20}, r"tolerance must lie in \[8\.9e-16, 1\) for float64, got 1e-20"),
        ((1, SIZE), {"tolerance": 1.0}, r"tolerance must lie in .* got 1\.0"),
        ((1, SIZE), {"tolerance": float("nan")}, "tolerance must lie in .* got nan"),
        ((3, SIZE), {"max_products": 2}, "max_products must be at least k=3, got 2"),
        ((3, 2), {}, r"shape \(k, p\) with 1 <= k <= p, got \(3, 2\)"),
        ((0, 2), {}, r"shape \(k, p\) with 1 <= k <= p, got \(0, 2\)"),
    ],
)
def test_bad_arguments_are_named(shape, options, message):
    with pytest.raises(ValueError, match=message):
        leading_eigenpairs(lambda v: v, jnp.ones(shape), **options)


def test_the_tolerance_is_that_of_the_dtype():
    start = jnp.ones((1, SIZE), jnp.float32)
    with pytest.raises(ValueError, match=r"tolerance must lie in \[4\.8e-07, 1\) for float32, got 1e-08"):
        leading_eigenpairs(lambda v: v, start, tolerance=1e-8)
    values = jnp.linspace(0, 1, SIZE, dtype=jnp.float32)
    pairs = solve(jnp.diag(values), random_start(1).astype(jnp.float32), tolerance=1e-3)
    assert pairs.values.dtype == pairs.vectors.dtype == jnp.float32
    assert int(pairs.status) == EigenStatus.CONVERGED
    np.testing.assert_allclose(pairs.values, [1.0], atol=1e-3)  # some eigenvalue lies within the residual


@pytest.mark.parametrize("k", [1, 2])
def test_long_vectors_in_single_precision(k):
    """Inner products of many terms are summed well: values and residuals to the rounding of a few operations."""
    p, values = 700_000, np.array([100.0, 60.0])
    keys = jax.random.split(jax.random.key(0), 3)
    u = jax.random.normal(keys[0], (p,), jnp.float32) ** 3
    w = jax.random.normal(keys[1], (p,), jnp.float32)
    w = w / jnp.linalg.norm(w) - jnp.vdot(w, u) / (jnp.vdot(u, u) * jnp.linalg.norm(w)) * u
    u, w = u / jnp.linalg.norm(u), w / jnp.linalg.norm(w)

    def matvec(v):
        return 100 * jnp.vdot(u, v) * u + 60 * jnp.vdot(w, v) * w

    noise = jax.random.normal(keys[2], (k, p), jnp.float32) * jnp.float32(0.05 / p**0.5)
    solve = jax.jit(lambda start: leading_eigenpairs(matvec, start, tolerance=1e-4, max_products=20 * k))
    found = solve(jnp.stack([u, w])[:k] + noise)
    assert found.status == EigenStatus.CONVERGED
    np.testing.assert_allclose(found.values, values[:k], rtol=1e-5)


# --- starts without a direction, scales, precisions -------------------------------------------------------------------

SPECTRA = {
    20: np.array([3.0, 2.0, 1.2, *np.linspace(-4, 0.5, 17)]),
    200: np.array([3.0, 2, 1.2, *np.linspace(-4, 0.5, 197)]),
}
each_size = pytest.mark.parametrize("size", SPECTRA, ids=["dense", "iterated"])


@each_size
@pytest.mark.parametrize("dense_limit", [0, DENSE_LIMIT])
@pytest.mark.parametrize(
    "start",
    [
        lambda size: np.zeros((1, size)),
        lambda size: np.zeros((3, size)),
        lambda size: np.ones((3, size)),  # rank 1
        lambda size: np.arange(1.0, 4)[:, None] * np.eye(3, size)[[0, 1, 0]],  # rank 2
        lambda size: np.eye(3, size) * np.array([1.0, np.nan, 0.0])[:, None],
        lambda size: np.full((2, size), np.inf),
        lambda size: 1e-30 * np.random.default_rng(0).normal(size=(3, size)),
    ],
    ids=["zero", "zeros", "rank 1", "rank 2", "nan", "inf", "tiny"],
)
def test_directions_that_a_start_lacks_are_made_up_for(size, dense_limit, start):
    matrix, start = with_spectrum(SPECTRA[size]), jnp.asarray(start(size))
    pairs = solve(matrix, start, dense_limit=dense_limit)
    assert_are_eigenpairs(pairs, matrix, 1e-8)
    np.testing.assert_allclose(pairs.values, SPECTRA[size][: len(start)], rtol=1e-9)


@pytest.mark.parametrize("rows", [[0, 0], [0, 1, 0]], ids=str)
def test_an_eigenvector_given_twice_counts_once(rows):
    """What the start does hold is kept: it comes back after the products of a look."""
    matrix = with_spectrum(SPECTRA[200])
    start, k = jnp.asarray(np.linalg.eigh(np.asarray(matrix))[1].T[::-1][np.array(rows)]), len(rows)
    pairs = solve(matrix, start)
    assert_are_eigenpairs(pairs, matrix, 1e-8)
    np.testing.assert_allclose(pairs.values, SPECTRA[200][:k], rtol=1e-9)
    look = solve(matrix, start, max_products=k)
    np.testing.assert_allclose(look.values[: k - 1], SPECTRA[200][: k - 1], rtol=1e-12)
    assert int(look.status) == EigenStatus.PRODUCT_LIMIT


@each_size
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("scale", [1e-25, 1e-19, 1e-12, 1e-6, 1e6, 1e12, 1e19, 1e25])
def test_operators_whose_squares_leave_the_range_of_float32(ordinary, size, k, scale):
    matrix = jnp.asarray(np.asarray(with_spectrum(SPECTRA[size])) * scale, jnp.float32)
    start = jnp.asarray(random_start(k, size), jnp.float32)
    pairs = solve(matrix, start, tolerance=1e-4)
    assert int(pairs.status) == EigenStatus.CONVERGED
    exact = np.linalg.eigvalsh(np.asarray(matrix, np.float64))[::-1][:k]
    # The images' drift over some fifty iterations: twenty roundings of ‖A‖ = 4.
    np.testing.assert_allclose(np.asarray(pairs.values, np.float64), exact, rtol=0, atol=80 * 1.2e-7 * scale)
    rows = np.asarray(pairs.vectors, np.float64)
    np.testing.assert_allclose(rows @ rows.T, np.eye(k), atol=1e-5)
    residuals = np.linalg.norm(rows @ np.asarray(matrix, np.float64) - np.asarray(pairs.values)[:, None] * rows, axis=1)
    assert (residuals <= 2e-4 * exact).all()


@each_size
def test_a_zero_operator_has_the_eigenvalue_zero(size):
    with jax.debug_nans(True):
        pairs = solve(jnp.zeros((size, size)), random_start(3, size))
    np.testing.assert_array_equal(pairs.values, 0)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(3), atol=1e-12)
    assert int(pairs.status) == EigenStatus.CONVERGED


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e25, -1e25])
def test_improving_a_vector_at_any_scale(ordinary, scale):
    values = jnp.asarray(np.array([1.0, *np.full(99, 1e-2)]) * scale, jnp.float32)
    u = jnp.asarray([np.sqrt(1 - 1e-4), 1e-2, *np.zeros(98)], jnp.float32)
    with jax.debug_nans(True):
        pairs = improved_eigenpair(lambda v: values * v, u, values * u, tolerance=2e-2)
    np.testing.assert_allclose(pairs.values, [scale * (1 - 1e-4)], rtol=1e-4)
    assert (int(pairs.products), int(pairs.status)) == (1, EigenStatus.CONVERGED)
    np.testing.assert_allclose(jnp.linalg.norm(pairs.vectors[0]), 1, rtol=1e-6)
    assert float(pairs.vectors[0] @ u) > 0.99
    np.testing.assert_allclose(pairs.vectors[0][1], 1e-4 if scale else 1e-2, rtol=1e-2)


@each_size
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_start_in_half_precision_is_solved_in_single(ordinary, size, dtype):
    matrix = jnp.asarray(with_spectrum(SPECTRA[size]), jnp.float32)
    pairs = leading_eigenpairs(lambda v: matrix @ v, jnp.asarray(random_start(2, size), dtype))
    np.testing.assert_allclose(pairs.values, [3, 2], rtol=1e-5)
    assert pairs.message.startswith("converged")
    assert pairs.values.dtype == pairs.vectors.dtype == jnp.float32


@pytest.mark.parametrize(("dtype", "default"), [("float64", 3e-4), ("float32", 3e-4), ("float16", 4 * 2**-10)])
def test_the_default_tolerance_is_one_that_the_dtype_resolves(dtype, default):
    assert resolve_tolerance(None, jnp.dtype(dtype)) == default


def test_an_eigenvalue_lost_in_the_rounding_of_a_dense_operator_is_not_called_converged(ordinary):
    values = np.array([1e-6, *np.linspace(-3, -1, 19)])
    pairs = solve(jnp.asarray(with_spectrum(values), jnp.float32), jnp.ones((1, 20)), tolerance=1e-3)
    assert int(pairs.status) == EigenStatus.STALLED
    assert "rounding" in pairs.message


def test_cold_starts_end_on_the_leading_pair():
    """Of random spectra; at thirty times the tolerance some end on the second, which this null model shows."""
    rng, size, count = np.random.default_rng(0), 120, 60
    axes = [np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(count)]
    values = np.sort(rng.normal(size=(count, size)))[:, ::-1]
    matrices = jnp.asarray([a.T @ (v[:, None] * a) for a, v in zip(axes, values)])
    starts = jnp.asarray(rng.normal(size=(count, 1, size)))

    def off(tolerance):
        pairs = jax.jit(jax.vmap(lambda m, s: solve(m, s, tolerance=tolerance)))(matrices, starts)
        assert (pairs.status == EigenStatus.CONVERGED).all()
        return 1 - pairs.values[:, 0] / values[:, 0]

    assert off(None).max() < 1e-4
    assert off(1e-2).max() > 1e-2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rest", [0.0, -1.0])
def test_eigenvalues_that_are_zero_end_at_rounding(dtype, rest):
    """No residual is small relative to them: iterated further, their noise would grow without bound."""
    values = np.where(np.arange(80) == 0, 1.0 + rest, rest)
    values[1:3] = 0
    pairs = solve(with_spectrum(values).astype(dtype), random_start(3, 80).astype(dtype), tolerance=1e-3)
    np.testing.assert_allclose(pairs.values, np.sort(values)[:-4:-1], atol=10 * np.finfo(dtype).eps)
    assert int(pairs.products) <= 60
    assert int(pairs.status) == EigenStatus.STALLED


def test_residuals_of_a_block_are_judged_against_its_gaps():
    np.testing.assert_allclose(gaps(jnp.array([-5.0])), [5.0])
    np.testing.assert_allclose(gaps(jnp.array([100.0, 99.0, 60.0])), [50.0, 49.0, 10.0])
    np.testing.assert_allclose(gaps(jnp.array([100.0, 6.0, -1.0])), [100.0, 6.0, 1.0])
    p = 200
    values = np.concatenate([[100.0, 99.9, 60.0], np.linspace(59, 0, p - 3)])
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(p, p)))[0]
    matrix, start = jnp.asarray((basis * values) @ basis.T), jnp.asarray(np.random.default_rng(1).normal(size=(3, p)))
    found = leading_eigenpairs(lambda v: matrix @ v, start, tolerance=2e-2, against=gaps)
    angle = np.linalg.norm(found.vectors[:2] - found.vectors[:2] @ basis[:, :2] @ basis[:, :2].T, axis=1)
    assert (angle <= 3e-2).all()  # of the space of the first two, close as they are to each other
    assert (np.asarray(found.residuals) <= 2e-2 * np.asarray(gaps(found.values))).all()


@pytest.mark.parametrize(
    ("below", "p"),
    [
        ((25.0, 22.0, 5.0, 1.0), 500_000),
        ((14.0, 10.0, 5.0, 1.0), 200_000),
        ((1.0, 0.9, *np.linspace(0.5, 0, 500)), 200_000),
    ],
)
@pytest.mark.parametrize("k", [2, 3])
def test_blocks_are_found_from_one_eigenvector_and_noise_where_most_parameters_are_idle(below, p, k):
    """Random rows there have images, and so residuals, far below the gap to the eigenvalue that is known."""
    values = np.array([200.0, *below])
    objective = Objective.create(
        lambda t: jnp.sum(jnp.asarray(values, t.dtype) * t[: len(values)] ** 2) / 2, jnp.zeros(p)
    )
    noise = jax.random.normal(jax.random.key(0), (k - 1, p))
    start = jnp.concatenate([jnp.eye(1, p), noise / jnp.linalg.norm(noise, axis=1, keepdims=True)])
    found = track.leading(objective, jnp.zeros(p), start)
    assert found.status == EigenStatus.CONVERGED
    np.testing.assert_allclose(found.values, values[:k], rtol=1e-3)
    np.testing.assert_allclose(local_geometry(objective, jnp.zeros(p), start).values, values[:k], rtol=1e-3)
