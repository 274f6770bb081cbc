"""The reduced matrix dynamics: the map, its averages, its chaos, its energy and its two-cycles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

from selfstab.theory import matrix, reduced

RATE = 0.03  # ε in the units of random_problem
CYCLE = 2**0.5 * np.pi / RATE  # steps, of small oscillations
SEEDS = range(6)


def forms(k, seed=0):
    """A loss ½xᵀ(2/η + Σ wₘBₘ)x − a·w: symmetric Bₘ (m, k, k), a (m,), and A (k, k) and 𝒢 (k, k, k, k) of it."""
    rng, size = np.random.default_rng(seed), k * (k + 1)
    b = rng.normal(size=(size, k, k))
    b, a = b + np.swapaxes(b, 1, 2), rng.normal(size=size)
    return b, a, np.einsum("m,mij->ij", a, b), np.einsum("mij,mkl->ijkl", b, b)


def coordinates(tensor):
    """The Gram (n, n) of a tensor (k, k, k, k), entry by entry."""
    rows, columns = np.triu_indices(len(tensor))
    c = np.where(rows == columns, 1.0, 2**0.5)
    return jnp.asarray(c[:, None] * c * tensor[rows, columns][:, rows, columns])


def settled(problem, seed, *, steps=40_000, discard=4_000, damping=0.0, rate=RATE):
    """Return z and Y on the attractor, from a random start of half the size of the oscillation."""
    k = len(problem.sharpening)
    z = np.random.default_rng(seed).normal(size=k)
    z, y = matrix.iterate(
        z / np.linalg.norm(z) / 2, jnp.zeros((k, k)), steps, learning_rate=rate, damping=damping, **problem._asdict()
    )
    return np.asarray(z[discard:]), np.asarray(y[discard:])


def second_moment(z):
    return z.T @ z / len(z)


def off_by(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def tensor_of(gram):
    """The tensor (k, k, k, k) of a Gram (n, n): the inverse of :func:`coordinates`."""
    k = {1: 1, 3: 2, 6: 3}[len(gram)]
    number, weight = np.zeros((k, k), int), np.where(np.eye(k, dtype=bool), 1.0, 0.5**0.5)
    for n, (i, j) in enumerate(zip(*np.triu_indices(k), strict=True)):
        number[i, j] = number[j, i] = n
    return weight[:, :, None, None] * weight * np.asarray(gram)[number][:, :, number]


def sigma_of(problem):
    """2𝒢⁻¹A, as the solution of the k² equations ½𝒢Σ = A of which some stand twice."""
    k = len(problem.sharpening)
    square = tensor_of(problem.gram).reshape(k * k, k * k) / 2
    return np.linalg.lstsq(square, np.ravel(problem.sharpening), rcond=1e-10)[0].reshape(k, k)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_map_is_gradient_descent_on_a_cubic_loss(k):
    """From the loss itself: no svec, no Gram, and the sign of x flips at every step."""
    b, a, sharpening, tensor = forms(k)
    stiffness = 0.4

    def loss(theta):
        x, w = theta[:k], theta[k:]
        block = 2 / RATE * jnp.eye(k) + jnp.tensordot(w, b, 1)
        return x @ block @ x / 2 - a @ w + stiffness * w @ w / 2

    rng = np.random.default_rng(1)
    theta = jnp.asarray(np.r_[0.3 * rng.normal(size=k), 0.1 * rng.normal(size=len(a))])
    constants = dict(sharpening=jnp.asarray(sharpening), gram=coordinates(tensor), damping=RATE * stiffness)
    zs, ys = matrix.iterate(theta[:k], jnp.tensordot(theta[k:], b, 1), 5, learning_rate=RATE, **constants)
    for t in range(6):
        np.testing.assert_allclose((-1) ** t * zs[t], theta[:k], atol=1e-13)
        np.testing.assert_allclose(ys[t], jnp.tensordot(theta[k:], b, 1), atol=1e-12)
        theta = theta - RATE * jax.grad(loss)(theta)


def test_one_direction_is_the_reduced_map():
    z, y = matrix.iterate(
        jnp.array([0.4]), jnp.array([[-0.2]]), 300, learning_rate=RATE, damping=0.01,
        sharpening=jnp.array([[0.7]]), gram=jnp.array([[1.9]]),
    )  # fmt: skip
    x, s = reduced.iterate(0.4, -0.2, 300, learning_rate=RATE, damping=0.01, alpha=0.7, beta=1.9)
    np.testing.assert_allclose(z[:, 0], np.asarray(x) * (-1) ** np.arange(301), rtol=1e-10)
    np.testing.assert_allclose(y[:, 0, 0], s, atol=1e-12)
    found = matrix.covariance(sharpening=jnp.array([[0.7]]), gram=jnp.array([[1.9]]))
    np.testing.assert_allclose(found, [[2 * 0.7 / 1.9]], rtol=1e-9)
    assert float(matrix.covariance(sharpening=jnp.array([[-0.7]]), gram=jnp.array([[1.9]]))[0, 0]) == 0


@pytest.mark.parametrize("k", [2, 3])
def test_mean_square_of_the_oscillation_is_the_multiplier(k):
    """⟨zzᵀ⟩ = Σ on the undamped map, and nearly with weak damping; the null model has Σ's trace and no direction."""
    errors, null = [], []
    for seed in SEEDS:
        problem = matrix.random_problem(seed, k)
        sigma = sigma_of(problem)
        np.testing.assert_allclose(matrix.covariance(**problem._asdict()), sigma, atol=1e-8)
        found = {kappa: second_moment(settled(problem, seed, damping=kappa * RATE)[0]) for kappa in (0, 0.03)}
        errors.append([off_by(moment, sigma) for moment in found.values()])
        null.append(off_by(found[0], np.eye(k) / k))
    # What stays bounded over the length of the run: a few cycles of some 400.
    assert np.max(errors, axis=0)[0] < 0.02
    assert np.max(errors, axis=0)[1] < 0.06
    assert np.median(null) > 10 * np.median(errors, axis=0)[0]


def test_indefinite_solution_is_replaced_by_the_complementary_one():
    """Where 2𝒢⁻¹A is indefinite, zzᵀ settles at the complementarity problem's Σ, of rank one, and dY/η at −slack."""
    gram = matrix.random_problem(4, 2).gram
    wanted = np.array([[0.7, 0.2], [0.2, -0.3]])
    problem = matrix.Problem(jnp.asarray(np.tensordot(tensor_of(gram), wanted, 2) / 2), gram)
    sigma = np.asarray(matrix.covariance(**problem._asdict()))
    assert np.linalg.matrix_rank(sigma, tol=1e-6) == 1
    assert off_by(sigma, wanted) > 0.3
    damping = 8 * RATE**2
    z, y = settled(problem, 0, damping=damping)
    np.testing.assert_allclose(np.outer(z[-1], z[-1]), sigma, atol=1e-6)
    slack = np.tensordot(tensor_of(gram), sigma, 2) / 2 - np.asarray(problem.sharpening)
    assert np.linalg.norm(slack) > 0.1
    np.testing.assert_allclose(damping / RATE * y[-1], -slack, atol=1e-6)


@pytest.mark.parametrize("k", [2, 3])
def test_oscillation_never_settles_for_several_directions(k):
    """The size of z and λ_max(Y) keep fluctuating at a damping at which the one-direction map rests."""
    damping = 4 * RATE**2  # twice the one-direction threshold 2ε²
    one = matrix.Problem(jnp.array([[1.0]]), jnp.array([[2.0]]))
    z, y = settled(one, 0, damping=damping)
    assert np.std(np.abs(z[-5000:])) < 1e-6
    assert np.abs(y[-5000:]).max() < 1e-6
    for seed in SEEDS:
        z, y = settled(matrix.random_problem(seed, k), seed, damping=damping)
        size = np.linalg.norm(z[-5000:], axis=1)
        assert size.std() > 0.1 * size.mean(), seed
        assert np.linalg.eigvalsh(y[-5000:])[:, -1].std() > 0.05, seed


@pytest.mark.parametrize("k", [2, 3])
def test_spikes_of_the_undamped_map_are_bounded_only_for_several_directions(k):
    for seed in SEEDS[:3]:
        z, y = settled(matrix.random_problem(seed, k), seed)
        half = len(z) // 2
        early, late = (np.linalg.norm(part, axis=1).max() for part in (z[:half], z[half:]))
        assert 0.5 < late / early < 2
        assert np.trace(sigma_of(matrix.random_problem(seed, k)) @ y.mean(0)) < 0  # takes away what the map adds
    z, _ = settled(matrix.Problem(jnp.array([[1.0]]), jnp.array([[2.0]])), 0, steps=6000, discard=0)
    assert np.abs(z[3000:]).max() > 1.3 * np.abs(z[:3000]).max()


def flow(problem, z, y, end):
    """The ODE z' = Yz, Y' = A − ½𝒢[zzᵀ] by scipy, with ∫⟨Σ, Y⟩, ∫ λ_max(Y) and ∫ zzᵀ (last k² entries) along it."""
    k, sigma = len(z), sigma_of(problem)
    tensor = tensor_of(problem.gram)

    def rate(_, state):
        z, y = state[:k], state[k : k + k * k].reshape(k, k)
        square = np.outer(z, z)
        force = np.asarray(problem.sharpening) - np.tensordot(square, tensor, 2) / 2
        return np.r_[y @ z, force.ravel(), (sigma * y).sum(), np.linalg.eigvalsh(y)[-1], square.ravel()]

    start = np.r_[z, np.ravel(y), 0, 0, np.zeros(k * k)]
    return scipy.integrate.solve_ivp(rate, (0, end), start, method="DOP853", rtol=1e-9, atol=1e-11).y[:, -1]


def test_energy_along_the_flow_and_in_a_step():
    problem, rng = matrix.random_problem(1, 2), np.random.default_rng(5)
    z, y = rng.normal(size=2), rng.normal(size=(2, 2))
    y = y + y.T
    end = flow(problem, z, y, 3.0)
    energy = functools.partial(matrix.energy, gram=problem.gram)
    start = float(energy(jnp.asarray(z), jnp.asarray(y)))
    change = float(energy(jnp.asarray(end[:2]), jnp.asarray(end[2:6].reshape(2, 2)))) - start
    assert abs(change) > 0.1
    np.testing.assert_allclose(change, end[6] / 2, rtol=1e-7)
    for rate in (0.3, 1e-4):
        parameters = dict(learning_rate=rate, **problem._asdict())
        after = matrix.step(jnp.asarray(z), jnp.asarray(y), **parameters)
        growth = matrix.energy_growth(jnp.asarray(z), jnp.asarray(y), **parameters)
        np.testing.assert_allclose(float(energy(*after)) - start, growth, atol=1e-13 * start)
    np.testing.assert_allclose(growth / rate, (sigma_of(problem) * y).sum() / 2, rtol=0.02)  # the last rate is small


def test_averages_along_the_flow():
    """⟨zzᵀ⟩ = Σ, ⟨tr ΣY⟩ = 0 and ⟨λ_max(Y)⟩ > 0: over a time T, up to what stays bounded divided by T."""
    problem, end = matrix.random_problem(2, 2), 400.0
    state = flow(problem, np.array([0.5, 0.1]), np.zeros((2, 2)), end)
    assert off_by(state[8:].reshape(2, 2) / end, sigma_of(problem)) < 0.05
    assert abs(state[6] / end) < 0.03
    assert state[7] / end > 0.2


@pytest.mark.parametrize("k", [2, 3])
def test_sharpness_hovers_above_the_edge(k):
    """The mean of λ_max(Y) is positive, of order √‖A‖ = 1; for one direction it vanishes."""
    for seed in SEEDS:
        _, y = settled(matrix.random_problem(seed, k), seed, damping=0.03 * RATE)
        assert np.linalg.eigvalsh(y)[:, -1].mean() > 0.3, seed
    _, y = settled(matrix.Problem(jnp.array([[1.0]]), jnp.array([[2.0]])), 0, damping=4 * RATE**2, discard=0)
    assert abs(y.mean()) < 0.01


def twins(problem, z, y, steps, rate):
    """Log growth per step of the distance of two NumPy orbits, pulled back to 1e-9 at each step."""
    k = len(z)
    tensor = tensor_of(problem.gram)

    def move(state):
        z, y = state
        return z + rate * y @ z, y + rate * (problem.sharpening - np.tensordot(np.outer(z, z), tensor, 2) / 2)

    problem = matrix.Problem(*map(np.asarray, problem))
    here, total = (np.asarray(z), np.asarray(y)), 0.0
    apart = (1e-9 * np.ones(k), 1e-9 * np.eye(k))
    for _ in range(steps):
        there = move(tuple(h + a for h, a in zip(here, apart, strict=True)))
        here = move(here)
        gap = [t - h for t, h in zip(there, here, strict=True)]
        size = np.sqrt(sum((g**2).sum() for g in gap)) / 1e-9
        apart, total = [g / size for g in gap], total + np.log(size)
    return total / steps


def test_lyapunov_against_two_orbits():
    problem = matrix.random_problem(5, 2)
    z, y = settled(problem, 0, steps=2000, discard=1999)
    steps = 4000
    found = matrix.lyapunov(z[0], y[0], steps, learning_rate=RATE, **problem._asdict())
    # The two start with different tangents, and differences of 1e-9 carry rounding.
    np.testing.assert_allclose(found, twins(problem, z[0], y[0], steps, RATE), atol=3 / steps)
    assert found * CYCLE > 0.2


@pytest.mark.parametrize("k", [2, 3])
def test_chaos_without_damping_and_a_rank_one_cycle_with_much(k):
    """Lyapunov exponent × cycle > 0 for damping κ = d/ε ≤ .03; above the least damping the orbit is a two-cycle."""
    chaotic = 0
    for seed in SEEDS:
        problem = matrix.random_problem(seed, k)
        exponents = []
        for kappa in (0.0, 0.03):
            z, y = settled(problem, seed, steps=4001, discard=4000, damping=kappa * RATE)
            exponents.append(CYCLE * float(matrix.lyapunov(
                z[0], y[0], 40_000, learning_rate=RATE, damping=kappa * RATE, **problem._asdict()
            )))  # fmt: skip
        chaotic += min(exponents) > 0.1
        kappa = 1.0
        z, y = settled(problem, seed, damping=kappa * RATE)
        exponent = CYCLE * float(
            matrix.lyapunov(z[-1], y[-1], 4000, learning_rate=RATE, damping=kappa * RATE, **problem._asdict())
        )
        assert exponent < -0.1
        moment = second_moment(z[-5000:])
        values = np.linalg.eigvalsh(moment)
        assert values[-2] < 1e-6 * values[-1], "rank one"
        cycle = matrix.two_cycle(z[-1], **problem._asdict())
        assert off_by(moment, np.outer(cycle.z, cycle.z)) < 1e-6
        wrong = np.linalg.norm(cycle.force) / np.linalg.norm(problem.sharpening)  # of the force ½𝒢[zzᵀ]
        np.testing.assert_allclose(kappa * y[-1], cycle.force, atol=1e-6)
        assert 0.05 < wrong < 0.6
        assert np.trace(moment) < 0.95
    assert chaotic >= len(SEEDS) - 1


@jax.jit
def psi(z, sharpening, tensor):
    """½zᵀAz − ⅛⟨zzᵀ, 𝒢[zzᵀ]⟩."""
    return z @ sharpening @ z / 2 - jnp.einsum("i,j,ijkl,k,l", z, z, tensor, z, z) / 8


slope, curvature = jax.jit(jax.grad(psi)), jax.jit(jax.hessian(psi))


def test_two_cycle_is_the_best_rank_one_multiplier():
    """Against scipy, from many starts; Yz = 0 there, and the stiffness is −∇²ψ."""
    for seed in SEEDS:
        problem = matrix.random_problem(seed, 2)
        given = problem.sharpening, jnp.asarray(tensor_of(problem.gram))
        starts = jnp.asarray(np.random.default_rng(seed).normal(size=(8, 2)))
        best = [scipy.optimize.minimize(lambda z: -psi(z, *given), z, jac=lambda z: -slope(z, *given)) for z in starts]  # noqa: B023
        cycles = [matrix.two_cycle(z, **problem._asdict()) for z in starts]
        values = np.array([psi(cycle.z, *given) for cycle in cycles])
        np.testing.assert_allclose(values.max(), -min(found.fun for found in best), rtol=1e-9)
        for cycle in cycles:
            np.testing.assert_allclose(cycle.force @ cycle.z, 0, atol=1e-10)
            np.testing.assert_allclose(cycle.stiffness, -curvature(cycle.z, *given), atol=1e-9)
            # Of all multipliers Σ ⪰ 0, those of higher rank included, the complementarity problem's is better still.
        sigma = sigma_of(problem)
        assert (sigma * problem.sharpening).sum() / 4 > values.max() * (1 + 1e-3)


def squared_map_multipliers(problem, z, y, rate, damping):
    """Of x_{t+2} as a function of (x_t, Y_t): the Jacobian by central differences of the map written out in x."""
    k = len(z)
    pairs = [(i, j) for i in range(k) for j in range(i, k)]
    tensor = tensor_of(problem.gram)
    sharpening = np.asarray(problem.sharpening)

    def twice(state):
        x, y = state[:k], np.zeros((k, k))
        for value, (i, j) in zip(state[k:], pairs, strict=True):
            y[i, j] = y[j, i] = value
        for _ in range(2):
            force = sharpening - np.tensordot(np.outer(x, x), tensor, 2) / 2
            x, y = -(x + rate * y @ x), (1 - damping) * y + rate * force
        return np.r_[x, [y[pair] for pair in pairs]]

    state, gap = np.r_[z, [y[pair] for pair in pairs]], 1e-6
    np.testing.assert_allclose(twice(state), state, atol=1e-9)  # a two-cycle it is
    return np.linalg.eigvals(
        np.stack([(twice(state + gap * e) - twice(state - gap * e)) / (2 * gap) for e in np.eye(len(state))], axis=1)
    )


@pytest.mark.parametrize("k", [2, 3])
def test_stability_of_two_cycles(k):
    """At small η: stable above √λ_max(cY) with positive stiffness; the multipliers are those of the squared map."""
    rate, decided = 1e-3, []
    for seed in SEEDS:
        problem = matrix.random_problem(seed, k, off_diagonal=(1.0, 0.2)[seed % 2])
        for start in np.random.default_rng(seed).normal(size=(3, k)):
            cycle = matrix.two_cycle(start, **problem._asdict())
            positive = float(np.linalg.eigvalsh(cycle.stiffness)[0]) > 0
            for factor in (0.3, 1.1, 3.0):
                c = factor * max(float(cycle.least_damping), 0.05)
                y, parameters = np.asarray(cycle.force) / c, dict(learning_rate=rate, damping=c * rate)
                found = np.asarray(matrix.multipliers(cycle.z, jnp.asarray(y), **parameters, **problem._asdict()))
                squared = squared_map_multipliers(problem, np.asarray(cycle.z), y, rate, c * rate)
                np.testing.assert_allclose(np.sort(np.abs(found) ** 2), np.sort(np.abs(squared)), atol=1e-7)
                growth = (np.abs(found).max() - 1) / rate
                expected = growth_rate(np.asarray(cycle.force), np.asarray(cycle.stiffness), c)
                np.testing.assert_allclose(growth, max(expected, -c), atol=0.05)  # O(η)
                if factor > 1 and positive:
                    assert expected < 0
                if not positive:
                    assert expected > 0
                decided.append((factor, positive, expected < 0))
    stable = {factor: np.mean([s for f, p, s in decided if f == factor and p]) for factor in (0.3, 1.1, 3.0)}
    assert stable[1.1] == stable[3.0] == 1
    assert stable[0.3] < 1


def growth_rate(force, stiffness, c):
    """Of the linearized flow ξ' = Yξ + p, p' = −cp − Kξ about a two-cycle, Y = force/c and K = stiffness + force."""
    eye = np.eye(len(force))
    return np.linalg.eigvals(np.block([[force / c, eye], [-stiffness - force, -c * eye]])).real.max()


def test_each_pair_of_directions_by_itself_is_not_enough():
    """μ < c and g|z|² > μc decide only where 𝒢 does not couple the pairs 11 and 12; the two matrices always do."""
    simple, full, cases, c = 0, 0, 0, 1.0
    for seed in range(20):
        problem = matrix.random_problem(seed, 2)
        given = problem.sharpening, jnp.asarray(tensor_of(problem.gram))
        for start in np.random.default_rng(seed).normal(size=(6, 2)):
            z, _, status, _ = scipy.optimize.fsolve(slope, start, args=given, full_output=True)
            if status != 1 or np.linalg.norm(z) < 0.1:
                continue
            force = np.asarray(matrix.left_over(jnp.asarray(z), **problem._asdict()))
            stiffness = -np.asarray(curvature(jnp.asarray(z), *given))
            stable = growth_rate(force, stiffness, c) < 0
            across = np.array([-z[1], z[0]]) / np.linalg.norm(z)
            mu, pull = across @ force @ across / c, across @ (stiffness + force) @ across  # pull = g|z|²
            simple += stable == (mu < c and pull > mu * c)
            full += stable == (mu < c and np.linalg.eigvalsh(stiffness)[0] > 0)
            cases += 1
    assert full == cases > 60
    assert simple < cases


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(steps=0), "steps must be at least 1, got 0"),
        (dict(z=jnp.zeros(3)), r"expected, got \(\(3,\), \(2, 2\), \(2, 2\), \(3, 3\)\)"),
        (dict(gram=jnp.eye(2)), r"expected, got \(\(2,\), \(2, 2\), \(2, 2\), \(2, 2\)\)"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = dict(z=jnp.ones(2), y=jnp.zeros((2, 2)), steps=3, learning_rate=RATE)
    arguments |= matrix.random_problem(0, 2)._asdict() | change
    for run in (matrix.iterate, matrix.lyapunov):
        with pytest.raises(ValueError, match=message):
            run(**arguments)
    with pytest.raises(ValueError, match="k must be at least 1 and off_diagonal positive, got 0"):
        matrix.random_problem(0, 0)


def test_problem_is_as_documented():
    for k in (1, 2, 3):
        problem = matrix.random_problem(7, k, off_diagonal=0.1)
        np.testing.assert_allclose(np.linalg.eigvalsh(problem.sharpening)[-1], 1, rtol=1e-12)
        sigma = sigma_of(problem)
        np.testing.assert_allclose(np.trace(sigma), 1, rtol=1e-9)
        values = np.linalg.eigvalsh(sigma)
        assert values[0] > 0
        assert values[-1] / values[0] < 3
        assert np.linalg.eigvalsh(problem.gram)[0] > 0
    weak, strong = (np.diag(matrix.random_problem(7, 2, off_diagonal=scale).gram) for scale in (0.1, 1.0))
    np.testing.assert_allclose(weak[1] / weak[0], 0.01 * strong[1] / strong[0], rtol=1e-9)


def test_under_vmap_and_in_ordinary_mode(ordinary):
    problems = [matrix.random_problem(seed, 2) for seed in range(3)]
    many = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    run = lambda p: matrix.iterate(jnp.array([0.3, 0.1]), jnp.zeros((2, 2)), 50, learning_rate=RATE, **p._asdict())  # noqa: E731
    z, _ = jax.vmap(run)(many)
    assert z.dtype == jnp.float32
    np.testing.assert_allclose(z[1], run(problems[1])[0], rtol=1e-4)
