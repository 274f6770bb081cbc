"""Errors of the prediction with several directions: geometry, projection, prediction, and the orders themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.optimize

from selfstab.theory import coupling, families, orders

RATE = 0.02
EDGE = 2 / RATE
KINDS = {"one": (1, True), "two": (2, True), "three": (3, True), "two uncoupled": (2, False)}


def one_of(k, coupled, seed=3):
    draws = families.block_draws(seed, 2, k, learning_rate=RATE, coupled=coupled)
    return jax.tree.map(lambda field: field[0], draws)


@pytest.fixture(params=KINDS, scope="module")
def kind(request):
    """k; a draw; its dense derivatives; a point of some δ; the block there."""
    k, coupled = KINDS[request.param]
    draw = one_of(k, coupled)
    theta = jnp.asarray(0.3 * np.random.default_rng(12).normal(size=draw.slope.size))
    dense = oracles.Dense.of(lambda t: draw.value(t, 0.7))
    return k, draw, dense, theta, jax.jit(lambda t: orders.dense_block(draw.jet(t, 0.7), k))


def close(measured, expected, accuracy=oracles.DIFFERENCE):
    expected = np.asarray(expected)
    np.testing.assert_allclose(measured, expected, atol=accuracy * np.abs(expected).max(), rtol=0)


def test_draws_are_as_documented(kind):
    k, draw, dense, _, _ = kind
    n, origin = k * (k + 1) // 2, jnp.zeros_like(draw.slope)
    hessian = np.asarray(dense.hessian(origin)) * RATE
    np.testing.assert_allclose(hessian, np.diag(np.diag(hessian)), atol=1e-12)
    np.testing.assert_allclose(np.sort(np.diag(hessian))[::-1][: k + 1], [2.0] * k + [0.5])
    np.testing.assert_allclose(dense.gradient(origin), -0.7 * draw.slope, atol=1e-14)
    for tensor in (draw.cubic, draw.quartic):
        for axis in range(tensor.ndim - 1):
            np.testing.assert_allclose(np.swapaxes(tensor, axis, axis + 1), tensor, atol=1e-14)
    assert np.abs(draw.cubic[k:, k:, k:]).max() == 0
    edge = np.arange(k)
    across = np.asarray(draw.cubic[edge][:, edge][:, :, k:])  # (k, k, p - k)
    assert np.linalg.matrix_rank(across.reshape(k * k, -1), tol=1e-9) == (n if len(draw.slope) == k + n + 3 else k)
    sharpening = across @ np.asarray(draw.slope[k:])
    assert np.linalg.eigvalsh(sharpening)[0] > -1
    assert np.linalg.eigvalsh(sharpening)[-1] > 0


def test_block_against_dense_and_differences(kind):
    k, _, dense, theta, block_at = kind
    block = block_at(theta)
    values, vectors = np.linalg.eigh(dense.hessian(theta))
    np.testing.assert_allclose(block.values, values[-k:], rtol=1e-12)
    np.testing.assert_allclose(block.vectors.T @ block.vectors, vectors[:, -k:] @ vectors[:, -k:].T, atol=1e-10)
    rows, columns = np.triu_indices(k)
    for row, i, j in zip(block.pairs, rows, columns, strict=True):
        v, w = block.vectors[i], block.vectors[j]
        third = np.asarray((dense.hessian(theta + 0.1 * v) - dense.hessian(theta - 0.1 * v)) @ w) / 0.2
        # Exact for a quartic, but for the rounding of Hessians of size 2/η.
        np.testing.assert_allclose(row * (1 if i == j else 0.5**0.5), third, atol=1e-11)


def test_normals_are_the_derivative_of_the_slopes_in_the_block(kind):
    """Where U∇L = 0, or the basis would turn within the block: at a projected point."""
    k, _, dense, theta, block_at = kind
    point = nearest(block_at, theta / 5, 20)
    block = block_at(point)

    def slopes(t):  # U∇L in the basis nearest to that at the point
        vectors = np.linalg.eigh(dense.hessian(t))[1][:, -k:]
        left, _, right = np.linalg.svd(np.asarray(block.vectors) @ vectors)
        return left @ right @ vectors.T @ np.asarray(dense.gradient(t))

    gap = 1e-5
    axes = gap * np.eye(theta.size)
    close(block.normals.T, [(slopes(point + e) - slopes(point - e)) / (2 * gap) for e in axes])


def nearest(block_at, target, rounds):
    point = target
    for _ in range(rounds):
        point = orders.towards_block_edge(block_at(point), point, target, RATE)
    return point


def test_projection_is_feasible_and_stationary(kind):
    _, _, _, theta, block_at = kind
    target = theta / 5
    point = nearest(block_at, target, 20)
    block = block_at(point)
    np.testing.assert_allclose(block.values, EDGE, rtol=1e-10)
    np.testing.assert_allclose(block.vectors @ block.jet.gradient, 0, atol=1e-9)
    move, normals = np.asarray(target - point), np.concatenate([block.pairs, block.normals / EDGE]).T
    rest = move - normals @ np.linalg.lstsq(normals, move, rcond=1e-9)[0]
    assert np.linalg.norm(move) > 1e-3
    assert np.linalg.norm(rest) < 1e-8 * np.linalg.norm(move)


def test_sigma_is_the_force_that_holds_the_edge():
    """The step of θ† is −η(∇L + ½T⊥:Σ), up to the second order; Σ by least squares over symmetric matrices."""
    draw = one_of(2, True)
    block = orders.dense_block(draw.jet(jnp.zeros_like(draw.slope), 1e-3), 2)
    across = np.stack(
        [np.asarray(draw.cubic[i, j]) * (np.arange(len(draw.slope)) >= 2) for i, j in ((0, 0), (0, 1), (1, 1))]
    )
    forces = across * np.array([1, 2, 1])[:, None] / 2  # of Σ_11, Σ_12 = Σ_21, Σ_22
    gradient = np.asarray(block.jet.gradient)
    weights = np.linalg.solve(across @ forces.T, -across @ gradient)
    sigma = np.asarray(block.vectors @ np.eye(len(draw.slope))[:, :2])  # the basis of the decomposition
    sigma = sigma @ np.array([[weights[0], weights[1]], [weights[1], weights[2]]]) @ sigma.T
    np.testing.assert_allclose(block.sigma, sigma, atol=1e-9 * np.abs(sigma).max())
    step = nearest(lambda t: orders.dense_block(draw.jet(t, 1e-3), 2), -RATE * block.jet.gradient, 3)
    expected = -RATE * (gradient + weights @ forces)
    np.testing.assert_allclose(step, expected, atol=1e-4 * np.abs(expected).max())


def test_prediction_follows_its_formula_in_every_basis(kind):
    """With projectors and the third derivative written out; the block's basis, turned, changes nothing."""
    k, _, dense, theta, block_at = kind
    block = block_at(theta)
    v = jnp.asarray(np.random.default_rng(1).normal(size=theta.size))
    found = orders.predicted(block, v, RATE)
    third, u = np.asarray(block.jet.third), np.asarray(block.vectors)
    inside = u.T @ u
    outside, along = np.eye(len(v)) - inside, inside @ v
    pairs = np.einsum("ia,jb,abc->ijc", u, u, third)
    bend = np.einsum("ij,ijc->c", block.sigma, pairs)
    expected = v - RATE * (
        np.asarray(dense.hessian(theta)) @ v
        + inside @ (third @ (outside @ v) @ along)  # UᵀYx
        + third @ along @ along / 2  # ½T:xxᵀ along and across
        - outside @ bend / 2
    )
    close(found, expected, 1e-12)
    turn = jnp.asarray(np.linalg.qr(np.random.default_rng(2).normal(size=(k, k)))[0])
    pairs = jnp.einsum("ia,jb,abc->ijc", turn @ u, turn @ u, block.jet.third)
    rows, columns = np.triu_indices(k)
    weight = np.where(rows == columns, 1.0, 2**0.5)[:, None]
    turned = block._replace(
        vectors=turn @ block.vectors, pairs=weight * pairs[rows, columns], sigma=turn @ block.sigma @ turn.T
    )
    close(orders.predicted(turned, v, RATE), found, 1e-12)


def test_one_direction_against_the_coupling_theorem():
    """The same θ†, so the same scales, and errors of the same size: the two predictions differ at their own order."""
    draws, alphas = families.polynomial_draws(5, 4, learning_rate=RATE), np.array([0.3, 0.03])
    theirs = coupling.coupling_errors(draws, alphas, learning_rate=RATE)
    ours = orders.block_errors(draws, alphas, k=1, learning_rate=RATE)
    np.testing.assert_allclose(ours.epsilon, theirs.epsilon, rtol=1e-12)
    np.testing.assert_allclose(ours.delta, theirs.delta, rtol=1e-9)
    for field in ("deviation", "loss", "sharpness"):
        ratio = np.asarray(getattr(ours, field)) / np.asarray(getattr(theirs, field))
        assert (ratio > 1 / 3).all(), field
        assert (ratio < 3).all(), field


def test_prediction_is_exact_without_what_it_drops():
    """A cubic loss with terms of two edge directions and one flat one alone: nothing is left out."""
    size, rng = 5, np.random.default_rng(0)
    cubic = np.zeros((3, size, size, size))
    for axis in range(2, size):
        matrices = rng.normal(size=(3, 2, 2))
        matrices = matrices + np.swapaxes(matrices, 1, 2)
        for i in range(2):
            for j in range(2):
                for where in ((i, j, axis), (i, axis, j), (axis, i, j)):
                    cubic[(slice(None), *where)] = matrices[:, i, j]
    sigma = np.array([1.0, 0.3, 0.8])  # of pairs 11, 12, 22
    slope = sum(w * c * cubic[:, i, j] for w, c, (i, j) in zip(sigma, (1, 2, 1), ((0, 0), (0, 1), (1, 1)), strict=True))
    hessian = np.tile([EDGE, EDGE, 0, 0, 0.0], (3, 1))
    draws = families.Polynomial(*map(jnp.asarray, (slope, hessian, cubic, np.zeros((3,) + (size,) * 4))))
    errors = orders.block_errors(draws, [1.0, 0.1], k=2, learning_rate=RATE)
    assert np.asarray(errors.deviation / errors.delta).max() < 1e-8
    assert np.asarray(errors.violation).max() < 1e-10


@pytest.mark.parametrize(("name", "count"), [("one", 8), ("two", 24), ("two uncoupled", 8)])
def test_orders_of_the_errors(name, count):
    """1, 3/2, 1 within the bootstrap interval, widened by what the remainder O(ε) bends over these two decades."""
    k, coupled = KINDS[name]
    alphas = np.geomspace(0.3, 3e-3, 3)
    errors = orders.block_errors(
        families.block_draws(0, count, k, learning_rate=RATE, coupled=coupled), alphas, k=k, learning_rate=RATE
    )
    assert np.asarray(errors.violation).max() < 1e-6
    assert np.asarray(errors.smallest).min() > 0.2
    for field, order in (("deviation", 1), ("loss", 1.5), ("sharpness", 1)):
        middle, low, high = orders.slopes(alphas, getattr(errors, field))
        assert low - 0.03 < order < high + 0.03, (field, low, high)
        assert abs(middle - order) < 0.1
        assert high - low < 0.3


def test_bootstrap_against_scipy():
    rng = np.random.default_rng(0)
    alphas = np.geomspace(1, 1e-2, 4)
    errors = alphas**1.5 * np.exp(0.5 * rng.normal(size=(40, 4)))
    errors[3, 2] = np.nan  # a draw that diverged is a large error, not a missing one
    found = orders.slopes(alphas, errors, resamples=4000)
    filled = np.nan_to_num(errors, nan=1e300)

    def slope(rows):
        return np.polyfit(np.log(alphas), np.log(np.median(filled[rows.astype(int)], axis=0)), 1)[0]

    np.testing.assert_allclose(found[0], slope(np.arange(40)), rtol=1e-12)
    theirs = scipy.stats.bootstrap(
        (np.arange(40.0),), slope, n_resamples=4000, vectorized=False, method="percentile", rng=1
    ).confidence_interval
    np.testing.assert_allclose(found[1:], theirs, atol=0.03)
    assert found[1] < 1.5 < found[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(learning_rate=0.0), "learning_rate must be positive and finite, got 0.0"),
        (dict(alphas=[1.0, -1.0]), "alphas, horizon, start > 0 and 0 < k < 5 expected"),
        (dict(k=0), "alphas, horizon, start > 0 and 0 < k < 5 expected"),
        (dict(horizon=-1.0), "alphas, horizon, start > 0 and 0 < k < 5 expected"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    draws = families.block_draws(0, 1, 1, learning_rate=RATE)
    arguments = dict(draws=draws, alphas=[1.0], k=1, learning_rate=RATE) | change
    with pytest.raises(ValueError, match=message):
        orders.block_errors(arguments.pop("draws"), arguments.pop("alphas"), **arguments)
    with pytest.raises(ValueError, match="k must be finite and at least 1, got 0"):
        families.block_draws(0, 1, 0, learning_rate=RATE)
