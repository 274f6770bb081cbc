"""Gradient descent on random batches: when it is stable, and where noise holds the sharpness.

Linear regression that interpolates, L_i = ½(x_i·v)² with v = θ − θ*, is solved exactly.  A step on a batch is
v ↦ (I − ηH_B)v, H_B the mean of the batch's H_i = x_i x_iᵀ, so that the second moment E[v vᵀ] moves linearly:

    E[v⊗v] ↦ (I − 2ηC + η²D) E[v⊗v],      C = ½(H⊗I + I⊗H),   D = E[H_B⊗H_B].

Everything here is NumPy in float64.  Sources: arXiv 2306.07850 (the exact threshold), 2404.19261 (the noise kernel),
2604.21016 (the gap); only their abstracts could be read, and each formula is derived for this project.

>>> import numpy as np
>>> h = hessians(np.eye(2))
>>> [round(float(threshold(h, batch)), 6) for batch in (1, 2)]
[2.0, 4.0]
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
from jax import Array


def _check(batch: int, n: int) -> None:
    if not 1 <= batch <= n:
        raise ValueError(f"batch must lie in 1..{n}, the number of samples, got {batch!r}")


def batches(key: Array, n: int, batch: int, steps: int) -> Array:
    """Return the samples of each step, indices (steps, batch): one random order of all n after another.

    Raises:
        ValueError: if the batch is empty or larger than n.
    """
    _check(batch, n)
    keys = jax.random.split(key, -(-steps * batch // n))
    order = jax.vmap(lambda each: jax.random.permutation(each, n))(keys)  # (epochs, n)
    return order.reshape(-1)[: steps * batch].reshape(steps, batch)


def hessians(inputs: np.ndarray) -> np.ndarray:
    """Return H_i = x_i x_iᵀ (n, d, d) of inputs x (n, d); their mean is the Hessian H."""
    inputs = np.asarray(inputs, float)
    return inputs[:, :, None] * inputs[:, None, :]


def second_moment(h: np.ndarray, batch: int, *, replacement: bool = False) -> np.ndarray:
    """Return D = E[H_B⊗H_B] (d², d²) over batches of distinct samples, each equally likely; h (n, d, d).

    D = (1 − p) H⊗H + p·mean(H_i⊗H_i) with p = (n − B)/(B(n − 1)): two samples of a batch are a random pair.  With
    ``replacement`` a sample may come twice, and p = 1/B.

    Raises:
        ValueError: if the batch is empty or larger than n.
    """
    n, d, _ = h.shape
    _check(batch, n)
    p = 1 / batch if replacement else (n - batch) / (batch * max(n - 1, 1))
    flat = h.reshape(n, -1)
    alone = (flat.T @ flat / n).reshape(d, d, d, d).swapaxes(1, 2).reshape(d * d, d * d)  # mean of H_i⊗H_i
    mean = h.mean(0)
    return (1 - p) * np.kron(mean, mean) + p * alone


def first_moment(h: np.ndarray) -> np.ndarray:
    """Return C = ½(H⊗I + I⊗H) (d², d²) of h (n, d, d)."""
    mean, one = h.mean(0), np.eye(h.shape[1])
    return (np.kron(mean, one) + np.kron(one, mean)) / 2


def threshold(h: np.ndarray, batch: int, *, replacement: bool = False) -> float:
    """Return η* = 2/λ_max(C^{−½}DC^{−½}), beyond which E‖v‖² grows under steps on random batches; h (n, d, d).

    The operator I − 2ηC + η²D maps positive semidefinite matrices to such, so its spectral radius is its largest
    eigenvalue, and that exceeds one iff η zᵀDz > 2 zᵀCz for some z.  For B = n, without ``replacement``, it is
    2/S.  arXiv 2306.07850.

    Raises:
        ValueError: if the batch is empty or larger than n, or H is singular: directions that no sample sees never move.
    """
    c = first_moment(h)
    if np.linalg.eigvalsh(c)[0] <= h.shape[1] * np.finfo(float).eps * np.abs(c).max():
        raise ValueError(
            f"the mean of the Hessians must be positive definite, got rank {np.linalg.matrix_rank(h.mean(0))}"
        )
    return 2 / float(scipy.linalg.eigh(second_moment(h, batch, replacement=replacement), c, eigvals_only=True)[-1])


def noise_kernel(curvatures: np.ndarray, batch: int, learning_rate: float) -> float:
    """Return K = (η/B) Σ λ_i/(2 − ηλ_i(1 + 1/B)): with Gaussian inputs, E‖v‖² grows iff K > 1.

    ``curvatures`` (d,) are the eigenvalues λ of H.  For Gaussian x, E[xxᵀMxxᵀ] = 2HMH + H tr(HM): in the eigenbasis
    each diagonal entry of M = E[vvᵀ] is damped by itself and fed by tr(HM).  Samples are drawn independently.
    Infinite where some ηλ(1 + 1/B) ≥ 2.  For small ηλ it is η trH/(2B): the trace matters, not the largest eigenvalue.
    arXiv 2404.19261.
    """
    left = 2 - learning_rate * np.asarray(curvatures, float) * (1 + 1 / batch)
    return float(learning_rate / batch * np.sum(curvatures / left)) if np.all(left > 0) else np.inf


def gaussian_threshold(curvatures: np.ndarray, batch: int) -> float:
    """Return the η at which the noise kernel of Gaussian inputs is one; ``curvatures`` (d,), the largest positive."""
    top = 2 / (np.max(curvatures) * (1 + 1 / batch))  # there the kernel is infinite
    return float(scipy.optimize.brentq(lambda eta: 1 - 1 / max(noise_kernel(curvatures, batch, eta), 1e-9), 0, top))


def simulated_growth(key: Array, inputs, batch: int, learning_rate, *, copies: int = 2000, steps: int = 300) -> Array:
    """Simulate ln of the factor by which E‖v‖² grows in each step (steps,), with many copies of the descent.

    Few copies carry the mean: without help it would soon rest on copies that no simulation contains.  So v is scaled to
    length one after each step, and the copies are drawn again, each with a chance proportional to its ‖v‖² before.  The
    first steps remember the isotropic start.

    Args:
        key: JAX random key.
        inputs: x (n, d).
        batch: Samples of a batch, distinct, drawn anew in each step.
        learning_rate: η.
        copies: Number of copies.
        steps: Number of steps.

    Raises:
        ValueError: if the batch is empty or larger than n.
    """
    inputs = jnp.asarray(inputs)
    _check(batch, len(inputs))
    return _simulated_growth(key, inputs, jnp.asarray(learning_rate, inputs.dtype), batch, copies, steps)


@jax.jit(static_argnames=("batch", "copies", "steps"))
def _simulated_growth(key, inputs, learning_rate, batch, copies, steps):
    n, d = inputs.shape

    def step(v, key):
        draw, again = jax.random.split(key)
        lot = jax.random.uniform(draw, (copies, n))
        chosen = jnp.sum(lot[:, None] < lot[:, :, None], axis=2) < batch  # (copies, n): the B smallest of a row
        residuals = jnp.where(chosen, v @ inputs.T, 0)  # x_i·v of the batch, (copies, n)
        v = v - learning_rate / batch * (residuals @ inputs)
        square = jnp.sum(v**2, axis=1)
        places = (
            (jnp.arange(copies, dtype=v.dtype) + jax.random.uniform(again, dtype=v.dtype)) / copies * jnp.sum(square)
        )
        chosen = jnp.minimum(jnp.searchsorted(jnp.cumsum(square), places), copies - 1)
        return (v / jnp.sqrt(square)[:, None])[chosen], jnp.log(jnp.mean(square))

    keys = jax.random.split(key, steps + 1)
    v = jax.random.normal(keys[0], (copies, d), inputs.dtype)
    return jax.lax.scan(step, v / jnp.linalg.norm(v, axis=1, keepdims=True), keys[1:])[1]


def gap(noise, *, learning_rate, alpha, beta):
    """Return ⟨y⟩ = −ηβσ²/(4α) of the reduced map with noise, a curvature: how far below 2/η the sharpness rests.

    ``noise`` is the standard deviation σ of the gradient along u, a curvature times a length.  To leading order in
    ησ/δ, and for ησ/δ ≫ ε = η√α, where the noise outweighs the map's own cycles.  arXiv 2604.21016.
    """
    return -learning_rate * beta * noise**2 / (4 * alpha)


def own_noise(x, y, *, alpha, beta) -> float:
    """Return (2/β)⟨(α − βx²/2)²⟩ + ⟨x²y²⟩ of a stationary orbit, which adds to σ² in :func:`gap`, and makes it exact.

    From stationary ⟨y²⟩ and ⟨x²⟩ of x' = −(1 + ηy)x − ηξ, y' = y + η(α − βx²/2): derived for this project.
    """
    x, y = np.asarray(x), np.asarray(y)
    force = alpha - beta * x**2 / 2
    return float(2 / beta * np.mean(force**2, dtype=float) + np.mean((x * y) ** 2, dtype=float))
