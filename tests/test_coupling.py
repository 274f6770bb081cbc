"""The coupling theorem's machinery on small losses: derivatives, projection, prediction, and the orders themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.optimize

from selfstab.theory import coupling, families

RATE = 0.02
EDGE = 2 / RATE
FAMILIES = {
    "polynomial": (families.polynomial_draws, dict(bulk=0.3)),
    "further directions": (families.polynomial_draws, dict(extra=2)),
    "waves": (families.wave_draws, {}),
}
GAP = 1e-4  # of differences of S ≈ 100: at √eps its rounding would be 1e-6 of ∇S; here both errors are below 1e-7


def draws_of(family, seed=11, count=1):
    """Stacked draws of a family."""
    build, options = FAMILIES[family]
    return build(seed, count, learning_rate=RATE, **options)


def one_of(family):
    """A single draw."""
    return jax.tree.map(lambda field: field[0], draws_of(family))


@pytest.fixture(params=FAMILIES, scope="module")
def family(request):
    """A draw of each family; its dense derivatives; the loss's pull; a point some δ from the start; its jet."""
    draw, pull = one_of(request.param), 0.7
    theta = jnp.asarray(0.6 * np.random.default_rng(12).normal(size=draw.slope.size))
    dense = oracles.Dense.of(lambda t: draw.value(t, pull))
    return draw, dense, pull, theta, jax.jit(lambda t: draw.jet(t, pull))


def close(measured, expected, accuracy=oracles.DIFFERENCE):
    """Agreement relative to the largest entry, as a difference quotient allows."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(measured, expected, atol=accuracy * np.abs(expected).max(), rtol=0)


def test_jet_against_dense_and_differences(family):
    _, dense, _, theta, jet = family
    found = jet(theta)
    v = jnp.asarray(np.random.default_rng(3).normal(size=theta.size))
    close(found.loss, dense.loss(theta), 1e-13)
    close(found.gradient, dense.gradient(theta), 1e-13)
    close(found.hessian, dense.hessian(theta), 1e-13)
    close(found.third @ v @ v, dense.third(theta, v))
    close(found.gradient @ v, dense.slope(theta, v))


def test_derivatives_are_symmetric(family):
    _, _, _, theta, jet = family
    found = jet(theta)
    for axes in ((1, 0, 2), (0, 2, 1)):  # they generate all permutations
        close(jnp.transpose(found.third, axes), found.third, 1e-13)
    close(found.hessian.T, found.hessian, 1e-13)


@pytest.mark.parametrize("extra", [0, 3])
def test_couplings_are_symmetric_and_as_documented(extra):
    draws = families.polynomial_draws(5, 2, learning_rate=RATE, extra=extra, second=1.25, bulk=0.4)
    draw, other = (jax.tree.map(lambda field: np.asarray(field[i]), draws) for i in (0, 1))  # noqa: B023
    assert np.abs(draw.cubic - other.cubic).max() > 0.1
    for tensor in (draw.cubic, draw.quartic):
        for axis in range(tensor.ndim - 1):
            np.testing.assert_allclose(np.swapaxes(tensor, axis, axis + 1), tensor, atol=1e-15)
    np.testing.assert_allclose(draw.cubic[0, 0, :5], [1, 1, 0.6, 0, 0])
    np.testing.assert_allclose([np.linalg.norm(draw.slope), draw.slope[0]], [1, 0], atol=1e-15)
    np.testing.assert_allclose(draw.hessian[:5] * RATE, [2, 0, 0, 0.15, 1.25])
    quiet = families.polynomial_draws(5, 2, learning_rate=RATE, extra=extra)
    assert np.abs(quiet.cubic[:, 1:, 1:, 1:]).max() == 0
    np.testing.assert_array_equal(quiet.cubic[0, 0], draw.cubic[0])
    assert np.abs(draw.cubic[1:, 1:, 1:]).max() > 0.1
    assert draw.cubic[1, 1, 1] == 0


def test_families_have_the_orders_that_the_theorem_assumes(family):
    """At 0: Hessian diagonal with 2/η first and simple, a gradient across it, third order O(1), fourth O(η)."""
    draw, dense, pull, theta, _ = family
    origin = jnp.zeros_like(theta)
    hessian = dense.hessian(origin)
    np.testing.assert_allclose(hessian, np.diag(np.diag(hessian)), atol=1e-12)
    np.testing.assert_allclose(hessian[0, 0], EDGE)
    assert np.diag(hessian)[1:].max() <= 0.5 / RATE
    np.testing.assert_allclose(dense.gradient(origin), -pull * draw.slope, atol=1e-14)
    rng = np.random.default_rng(0)
    for v in rng.normal(size=(5, theta.size)):
        v = jnp.asarray(v / np.linalg.norm(v))
        assert abs(v @ dense.fourth(origin, v)) < 20 * RATE
        assert np.linalg.norm(dense.third(origin, v)) < 10


def test_geometry_against_dense_and_differences(family):
    _, dense, _, theta, jet = family
    values, vectors = dense.eigen(theta)
    geometry = coupling.dense_geometry(jet(theta), -jnp.asarray(vectors[0]))
    local = geometry.local
    np.testing.assert_allclose([local.sharpness, geometry.second], values[:2], rtol=1e-12)
    close(local.eigenvector, -vectors[0], 1e-10)
    assert local.residual < 1e-11 * EDGE
    axes = GAP * np.eye(theta.size)
    differences = lambda f: [(f(theta + e) - f(theta - e)) / (2 * GAP) for e in axes]  # noqa: E731
    close(local.sharpness_gradient, differences(dense.sharpness))

    def slope(t):
        vector = dense.eigen(t)[1][0]
        return vector @ dense.gradient(t) * np.sign(vector @ local.eigenvector)

    close(geometry.normal, differences(slope))


def test_geometry_against_closed_form():
    """The toy of the oracles: L = ½(2/η + √β y)x² − (α/√β)y + ½λy² − gz, whose every quantity is known."""
    toy = oracles.Toy(learning_rate=RATE, alpha=0.8, beta=1.7, lam=0.3, drift=0.2)
    theta = jnp.array([0.4, -0.6, 1.1])
    hessian = jax.hessian(toy.loss)
    third = jax.jit(jax.jacfwd(hessian))(theta)
    jet = families.Jet(toy.loss(theta), jnp.asarray(toy.gradient(theta)), jax.jit(hessian)(theta), third)
    local = coupling.dense_geometry(jet, jnp.asarray(toy.eigenvector(theta))).local
    np.testing.assert_allclose(local.sharpness, toy.sharpness(theta), rtol=1e-12)
    np.testing.assert_allclose(local.eigenvector, toy.eigenvector(theta), atol=1e-12)
    np.testing.assert_allclose(local.sharpness_gradient, toy.sharpness_gradient(theta), atol=1e-12)
    np.testing.assert_allclose(
        [local.alpha, local.beta, local.delta_squared],
        [toy.alpha_at(theta), toy.beta_at(theta), toy.delta_squared_at(theta)],
        rtol=1e-10,
    )


def nearest(jet, first, target, rounds):
    """A point of {S = 2/η, u·∇L = 0} by rounds from ``target``, and the geometry there."""
    project = jax.jit(lambda g, t: coupling.towards_edge(g, t, target, RATE))
    theta = target
    for _ in range(rounds):
        theta = project(coupling.dense_geometry(jet(theta), first), theta)
    return theta, coupling.dense_geometry(jet(theta), first)


def test_projection_is_feasible_and_the_nearest(family):
    _, _, _, theta, jet = family
    first = jnp.zeros_like(theta).at[0].set(1.0)
    target = 0.1 * theta
    point, geometry = nearest(jet, first, target, 12)
    local = geometry.local
    np.testing.assert_allclose(local.sharpness, EDGE, rtol=1e-12)
    assert abs(local.eigenvector @ local.gradient) < 1e-12 * EDGE
    # Stationarity: the way back to the target is a combination of the two constraints' gradients.
    move = np.asarray(target - point)
    normals = np.stack([local.sharpness_gradient, geometry.normal], axis=1)
    weights = np.linalg.lstsq(normals / np.linalg.norm(normals, axis=0), move, rcond=None)[0]
    rest = move - normals / np.linalg.norm(normals, axis=0) @ weights
    assert np.linalg.norm(rest) < 1e-9 * np.linalg.norm(move)
    assert np.linalg.norm(move) > 1e-3
    again, _ = nearest(jet, first, point, 1)
    np.testing.assert_allclose(again, point, atol=1e-12)


def test_projection_against_scipy():
    draw = one_of("polynomial")
    jet = jax.jit(lambda t: draw.jet(t, 0.7))
    first = jnp.zeros(5).at[0].set(1.0)
    target = jnp.array([0.05, 0.2, -0.1, 0.05, 0.02])

    def conditions(t):
        local = coupling.dense_geometry(jet(jnp.asarray(t)), first).local
        return [local.sharpness - EDGE, local.eigenvector @ local.gradient]

    best = scipy.optimize.minimize(
        lambda t: ((t - target) ** 2).sum(),
        np.zeros(5),
        jac=lambda t: 2 * (t - target),
        constraints={"type": "eq", "fun": conditions},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    assert best.success, best.message
    # SLSQP differences the constraints at √eps.
    np.testing.assert_allclose(nearest(jet, first, target, 12)[0], best.x, atol=1e-6)


def cubic_toys(curvatures):
    """L = ½(2/η + c a)x² − g(.8a + .6b) on R⁵, one loss for each c: gradient descent is the prediction, θ† moves."""
    cubic = np.zeros((len(curvatures), 5, 5, 5))
    for i, j, k in ((0, 0, 1), (0, 1, 0), (1, 0, 0)):
        cubic[:, i, j, k] = curvatures
    many = lambda row: jnp.tile(jnp.array(row), (len(curvatures), 1))  # noqa: E731
    slope, hessian = many([0, 0.8, 0.6, 0, 0]), many([EDGE, 0, 0, 0.0, 0])
    return families.Polynomial(slope, hessian, jnp.asarray(cubic), jnp.zeros((len(curvatures), 5, 5, 5, 5)))


def test_prediction_is_exact_on_the_pure_cubic():
    errors = coupling.coupling_errors(
        cubic_toys([0.5, 1.0, 2.0]), jnp.array([4.0, 0.3, 0.05, 0.02]), learning_rate=RATE
    )
    # Rounding enters at eps·|θ| a step, |θ| being up to tens of δ; the map spreads it by y and the number of steps.
    assert (np.asarray(errors.deviation / errors.delta) < 1e-10).all()
    np.testing.assert_allclose(errors.smallest_alpha, 1, rtol=1e-12)
    assert np.asarray(errors.violation).max() < 1e-12
    np.testing.assert_allclose(
        errors.delta, np.sqrt(2 * np.array([[4.0, 0.3, 0.05, 0.02]]) / np.array([[0.25], [1], [4]]))
    )
    np.testing.assert_allclose(errors.epsilon, np.tile(RATE * np.sqrt([4.0, 0.3, 0.05, 0.02]), (3, 1)))


def test_prediction_follows_its_formula():
    """One step against the formula with the projectors written out, and against the reduced map in two variables."""
    draw = one_of("polynomial")
    jet = draw.jet(jnp.zeros(5), 1.0)
    geometry = coupling.dense_geometry(jet, jnp.eye(5)[0])
    v, u = jnp.asarray(np.random.default_rng(1).normal(size=5)), jnp.array([0.8, 0.6, 0, 0, 0.0])
    now, slope = np.eye(5)[0], np.asarray(jet.third[0, 0])
    p, following = np.eye(5) - np.outer(now, now), np.eye(5) - np.outer(u, u)
    across = p @ slope
    delta_squared = 2 * float(-jet.gradient @ slope) / (across @ across)
    expected = following @ (np.eye(5) - RATE * np.asarray(jet.hessian)) @ p @ v
    expected += RATE * following @ across * (delta_squared - v[0] ** 2) / 2 - (1 + RATE * across @ v) * v[0] * u
    np.testing.assert_allclose(coupling.predicted(geometry, u, v, RATE), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["polynomial", "waves"])
def test_orders_of_the_errors(name):
    """Slopes over two decades of α well inside the theory's regime; the relative remainder O(ε) bends them by less."""
    build = {"polynomial": families.polynomial_draws, "waves": families.wave_draws}[name]
    alphas = np.geomspace(0.1, 1e-3, 4)
    errors = coupling.coupling_errors(build(20_231, 3, learning_rate=RATE), alphas, learning_rate=RATE)
    assert np.asarray(errors.violation).max() < 1e-6
    assert np.asarray(errors.second).max() < 0.6
    for field, order in (("deviation", 1), ("loss", 1.5), ("sharpness", 1)):
        lines = np.log(np.asarray(getattr(errors, field))).T
        slopes = np.polyfit(np.log(alphas), lines, 1)[0]
        np.testing.assert_allclose(np.median(slopes), order, atol=0.05, err_msg=field)
        assert np.abs(slopes - order).max() < 0.2, (field, slopes)


def test_longer_horizon_and_smaller_start_have_larger_errors():
    many, alphas = families.polynomial_draws(7, 3, learning_rate=RATE), np.geomspace(0.1, 0.01, 4)
    deviation = lambda **run: np.asarray(coupling.coupling_errors(many, alphas, learning_rate=RATE, **run).deviation)  # noqa: E731
    usual = deviation()
    assert (deviation(horizon=9.0) >= usual).all()
    assert (deviation(start=0.05) > usual).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(learning_rate=0.0), "learning_rate must be positive and finite, got 0.0"),
        (dict(horizon=-1.0), "horizon must be positive and finite, got -1.0"),
        (dict(start=float("nan")), "start must be positive and finite, got nan"),
        (dict(alphas=jnp.array([1.0, -1.0])), "alphas must be one-dimensional, positive and finite"),
        (dict(alphas=jnp.array(1.0)), "alphas must be one-dimensional, positive and finite"),
        (dict(draws=one_of("polynomial")), r"stacked along a first axis.*\(5,\)"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = dict(draws=cubic_toys([1.0]), alphas=jnp.array([1.0]), learning_rate=RATE) | change
    with pytest.raises(ValueError, match=message):
        coupling.coupling_errors(arguments.pop("draws"), arguments.pop("alphas"), **arguments)


@pytest.mark.parametrize(
    ("build", "change", "message"),
    [
        (families.polynomial_draws, dict(learning_rate=-0.1), "learning_rate must be positive and finite, got -0.1"),
        (families.polynomial_draws, dict(extra=-1), "extra must be finite and at least 0, got -1"),
        (families.polynomial_draws, dict(bulk=float("nan")), "bulk must be finite and at least 0, got nan"),
        (families.wave_draws, dict(size=2), "size must be finite and at least 3, got 2"),
        (families.wave_draws, dict(count=0), "count must be finite and at least 1, got 0"),
        (families.wave_draws, dict(terms=0), "terms must be finite and at least 1, got 0"),
    ],
)
def test_families_refuse_bad_arguments(build, change, message):
    with pytest.raises(ValueError, match=message):
        build(0, **(dict(count=1, learning_rate=RATE) | change))


def test_a_wrong_prediction_loses_the_order():
    """A bulk without its damping is noticed where ∇S has damped parts; models run side by side as they do alone."""
    alphas = np.geomspace(0.1, 1e-3, 3)
    kinds = coupling.Model(bulk=np.array([1.0, 0.0, 1.0]), force=np.array([1.0, 1.0, 1.02]))
    for damped, orders in ((0.0, (1, 1, 0.5)), (0.5, (1, 0.5, 0.5))):
        draws = families.polynomial_draws(3, 3, learning_rate=RATE, damped=damped)
        assert (draws.cubic[:, 0, 0, 3:] == damped).all()
        found = coupling.coupling_errors(draws, alphas, learning_rate=RATE, models=kinds)
        alone = coupling.coupling_errors(draws, alphas, learning_rate=RATE)
        np.testing.assert_allclose(found.deviation[..., 0], alone.deviation, rtol=1e-6)
        assert [errors.smallest.shape for errors in (found, alone)] == [(3, 3, 3), (3, 3)]
        assert found.violation.shape == (3, 3)
        for model, order in enumerate(orders):
            lines = np.log(np.asarray(found.deviation[..., model])).T
            slope = np.median(np.polyfit(np.log(alphas), lines, 1)[0])
            np.testing.assert_allclose(slope, order, atol=0.06, err_msg=f"{damped} {model}")
