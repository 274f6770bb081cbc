"""Descent on random batches: the closed forms against enumerated batches, sampled moments and iterated maps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfstab.theory import reduced, sampling

N, D = 7, 3
X = np.random.default_rng(0).normal(size=(N, D))
H = sampling.hessians(X)


def enumerated(function, batch, h=H):
    """The mean of a function of H_B over every batch."""
    means = [h[list(rows)].mean(0) for rows in itertools.combinations(range(len(h)), batch)]
    return np.mean([function(mean) for mean in means], axis=0)


@pytest.mark.parametrize("batch", range(1, N + 1))
def test_second_moment_is_the_mean_over_every_batch(batch):
    expected = enumerated(lambda mean: np.kron(mean, mean), batch)
    np.testing.assert_allclose(sampling.second_moment(H, batch), expected, rtol=1e-12, atol=1e-13)


def test_second_moment_of_batches_with_replacement():
    means = [(a + b) / 2 for a, b in itertools.product(H, H)]
    expected = np.mean([np.kron(mean, mean) for mean in means], axis=0)
    np.testing.assert_allclose(sampling.second_moment(H, 2, replacement=True), expected, rtol=1e-12, atol=1e-13)
    assert sampling.threshold(H, 2, replacement=True) < sampling.threshold(H, 2)


@pytest.mark.parametrize("batch", [1, 3, N])
@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_the_second_moment_grows_beyond_the_threshold_only(batch, factor):
    """Iterated as a matrix, M ↦ E[(I − ηH_B) M (I − ηH_B)], without Kronecker products."""
    eta = factor * sampling.threshold(H, batch)
    means = np.array([H[list(rows)].mean(0) for rows in itertools.combinations(range(N), batch)])
    step, m = np.eye(D) - eta * means, np.eye(D) / D
    for _ in range(1000):
        m = np.einsum("bij,jk,blk->il", step, m, step) / len(step)
        m, growth = m / np.trace(m), np.trace(m)
    assert np.sign(round(growth - 1, 9)) == np.sign(factor - 1)


def test_the_threshold_of_the_whole_batch_is_that_of_gradient_descent():
    np.testing.assert_allclose(sampling.threshold(H, N), 2 / np.linalg.eigvalsh(H.mean(0))[-1], rtol=1e-12)


def test_orthogonal_samples_are_stable_one_by_one():
    """Each sample moves its own direction alone: (1 − η|x|²)² ≤ 1, whatever the others do."""
    np.testing.assert_allclose(sampling.threshold(sampling.hessians(2 * np.eye(4)), 1), 2 / 4, rtol=1e-12)


def test_gaussian_threshold_against_sampled_moments():
    curvatures = np.array([2.0, 1.0, 0.5])
    x = np.random.default_rng(0).normal(size=(200_000, 3)) * np.sqrt(curvatures)
    h = sampling.hessians(x)
    for batch in (1, 4, 32):
        # fourth moments of 200,000 samples have a relative error of about √(96/200,000) = .02 each
        np.testing.assert_allclose(
            sampling.gaussian_threshold(curvatures, batch), sampling.threshold(h, batch), rtol=0.02
        )


def test_noise_kernel_of_equal_curvatures():
    """K = 1 is a linear equation: η = 2/(λ(1 + (d + 1)/B))."""
    for batch in (1, 5):
        eta = sampling.gaussian_threshold(np.full(4, 3.0), batch)
        np.testing.assert_allclose(eta, 2 / (3 * (1 + 5 / batch)), rtol=1e-9)
        np.testing.assert_allclose(sampling.noise_kernel(np.full(4, 3.0), batch, eta), 1, rtol=1e-9)
    assert sampling.noise_kernel(np.ones(2), 1, 1.0) == np.inf


@pytest.mark.parametrize("batch", [1, 3, N])
def test_simulated_growth_is_that_of_the_operator(batch):
    eta = 1.1 * sampling.threshold(H, batch)
    operator = np.eye(D * D) - 2 * eta * sampling.first_moment(H) + eta**2 * sampling.second_moment(H, batch)
    logs = sampling.simulated_growth(jax.random.key(0), X, batch, eta, copies=4000, steps=200)[50:]
    expected = np.log(np.linalg.eigvalsh(operator)[-1])
    assert abs(float(logs.mean()) - expected) <= 4 * float(logs.std()) / len(logs) ** 0.5 + 1e-5  # float32 at B = n


def test_growth_is_simulated_in_the_precision_of_the_inputs():
    """A rate out of NumPy is of double precision, whatever the inputs are."""
    inputs = jnp.asarray(X, jnp.float32)
    with jax.enable_x64(True):
        logs = sampling.simulated_growth(jax.random.key(0), inputs, 3, np.float64(0.1), copies=10, steps=5)
    assert logs.dtype == jnp.float32
    assert np.all(np.isfinite(logs))


def test_batches_take_each_sample_once_a_round():
    rows = sampling.batches(jax.random.key(1), 10, 4, 10)
    assert rows.shape == (10, 4)
    for some in np.asarray(rows).reshape(-1, 10):
        assert sorted(some) == list(range(10))
    assert not np.array_equal(rows.reshape(-1, 10)[0], rows.reshape(-1, 10)[1])


def test_the_gap_is_exact_with_the_maps_own_noise():
    """⟨y⟩ over a long orbit with noise, small and large, is that of the noise and the map's own fluctuations."""
    strengths = dict(learning_rate=0.02, alpha=1.0, beta=1.0)
    for noise in (5.0, 20.0):
        start, key = (jnp.ones(200), jnp.zeros(200)), jax.random.key(0)
        x, y = reduced.iterate(*start, 6000, noise=noise, key=key, **strengths)
        x, y = np.asarray(x)[2000:], np.asarray(y)[2000:]
        total = noise**2 + sampling.own_noise(x, y, alpha=1.0, beta=1.0)
        np.testing.assert_allclose(y.mean(), sampling.gap(total**0.5, **strengths), rtol=0.03)  # of 200 orbits
        assert abs(y.mean() / sampling.gap(noise, **strengths) - 1) > 0.03


@pytest.mark.parametrize("batch", [0, N + 1])
def test_a_batch_has_between_one_and_all_samples(batch):
    for call in (
        lambda: sampling.second_moment(H, batch),
        lambda: sampling.batches(jax.random.key(0), N, batch, 3),
        lambda: sampling.simulated_growth(jax.random.key(0), X, batch, 0.1),
    ):
        with pytest.raises(ValueError, match=r"batch must lie in 1\.\.7, the number of samples"):
            call()


def test_directions_that_no_sample_sees_have_no_threshold():
    with pytest.raises(ValueError, match="positive definite, got rank 1"):
        sampling.threshold(sampling.hessians(np.array([[1.0, 0.0]])), 1)
