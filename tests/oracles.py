"""Independent answers for the tests: dense Hessians, finite differences, and losses with closed forms.

Nothing here imports ``eoslib``.  Everything is float64; a difference quotient at √eps has a relative rounding error of
about √eps, times the size of the function over that of its slope.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

EPS = float(np.finfo(np.float64).eps)
STEP = EPS**0.5  # of a central difference
DIFFERENCE = 1e-6  # accuracy of such a difference, relative to the largest entry: √eps and a margin for conditioning


@dataclasses.dataclass(frozen=True)
class Dense:
    """Derivatives of a loss of a flat vector (p,), from the dense Hessian and from differences of it."""

    loss: Callable
    gradient: Callable
    hessian: Callable
    derivative: Callable  # of the Hessian along v, times v
    mixed: Callable  # of the Hessian along v, times w
    fourth_along: Callable  # second, of the Hessian along v, times v

    @classmethod
    def of(cls, loss: Callable) -> Dense:
        hessian = jax.hessian(loss)

        def mixed(theta, v, w):
            return jax.jvp(hessian, (theta,), (v,))[1] @ w

        def derivative(theta, v):
            return mixed(theta, v, v)

        def fourth_along(theta, v):
            return jax.jvp(lambda t: derivative(t, v), (theta,), (v,))[1]

        return cls(*map(jax.jit, (loss, jax.grad(loss), hessian, derivative, mixed, fourth_along)))

    def slope(self, theta, v) -> float:
        """v·∇L by differences of the loss."""
        return float(self.loss(theta + STEP * v) - self.loss(theta - STEP * v)) / (2 * STEP)

    def hvp(self, theta, v) -> np.ndarray:
        """∇²L v by differences of the gradient, (p,)."""
        return np.asarray(self.gradient(theta + STEP * v) - self.gradient(theta - STEP * v)) / (2 * STEP)

    def third(self, theta, v) -> np.ndarray:
        """∇³L[v, v] by differences of the dense Hessian, (p,)."""
        return np.asarray((self.hessian(theta + STEP * v) - self.hessian(theta - STEP * v)) @ v) / (2 * STEP)

    def fourth(self, theta, v) -> np.ndarray:
        """∇⁴L[v, v, v] by differences of the dense third derivative along v, (p,)."""
        return np.asarray(self.derivative(theta + STEP * v, v) - self.derivative(theta - STEP * v, v)) / (2 * STEP)

    def eigen(self, theta) -> tuple[np.ndarray, np.ndarray]:
        """All eigenvalues (p,), largest first, and the eigenvectors as rows (p, p)."""
        values, vectors = np.linalg.eigh(np.asarray(self.hessian(theta)))
        return values[::-1], vectors[:, ::-1].T

    def sharpness(self, theta) -> float:
        """λ_max of the dense Hessian."""
        return float(np.linalg.eigvalsh(np.asarray(self.hessian(theta)))[-1])

    def sharpness_slope(self, theta, v) -> float:
        """v·∇S by differences of the dense sharpness."""
        return (self.sharpness(theta + STEP * v) - self.sharpness(theta - STEP * v)) / (2 * STEP)


def nearest(dense: Dense, point, edge: float) -> np.ndarray:
    """The point of M = {S ≤ edge, u·∇L = 0} nearest to ``point`` (p,), that lies near."""
    floor = _nearest(dense, point, edge, conditions=1)
    return floor if dense.sharpness(floor) <= edge else _nearest(dense, point, edge, conditions=2)


def conditions_of(dense: Dense, theta, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Values u·∇L and S − edge (2,) of the two conditions of M, and their slopes (2, p).

    The slope of u·∇L is S u + ∇³L[u, w], w = Σ_k u_k (u_k·∇L)/(λ_1 − λ_k) over k > 1.
    """
    values, vectors = dense.eigen(theta)
    u, rest = vectors[0], vectors[1:]
    gradient = np.asarray(dense.gradient(theta))
    w = rest.T @ ((rest @ gradient) / (values[0] - values[1:]))
    turned = values[0] * u + np.asarray(dense.mixed(theta, u, w))
    return np.array([u @ gradient, values[0] - edge]), np.stack([turned, np.asarray(dense.derivative(theta, u))])


def optimized(dense: Dense, point, edge: float, starts) -> np.ndarray:
    """The point of M nearest to ``point`` (p,) by scipy's SLSQP, the best that it finds from several starts.

    (Its interior-point method agrees, to the 1e-3 of the distance that its barrier leaves.)  Lengths are measured in
    distances of the first start from ``point``, conditions in the change of S along one.
    """
    u, scale = dense.eigen(starts[0])[1][0], np.linalg.norm(starts[0] - point)

    def relative(z):
        left, slopes = conditions_of(dense, point + scale * z, edge)
        sign = np.array([1 if dense.eigen(point + scale * z)[1][0] @ u > 0 else -1, -1])  # S is bounded from above
        unit = sign / np.array([edge, np.linalg.norm(slopes[1])])
        return unit * left / scale, unit[:, None] * slopes

    conditions = [
        dict(type=kind, fun=lambda z, i=i: relative(z)[0][i], jac=lambda z, i=i: relative(z)[1][i])
        for i, kind in enumerate(("eq", "ineq"))
    ]
    found = [
        optimize.minimize(
            lambda z: z @ z / 2, (start - point) / scale, jac=lambda z: z, method="SLSQP", constraints=conditions,
            options=dict(ftol=1e-16, maxiter=300),
        )
        for start in starts
    ]  # fmt: skip
    off = [np.abs(np.minimum(relative(one.x)[0], [np.inf, 0])).max() for one in found]
    assert min(off) <= 1e-9, f"no point of M from any of {len(starts)} starts: off by {off}"
    return point + scale * np.array(
        min((one.fun, *one.x) for one, left in zip(found, off, strict=True) if left <= 1e-9)[1:]
    )


def _nearest(dense: Dense, point, edge: float, conditions: int) -> np.ndarray:
    """The point nearest to ``point`` with u·∇L = 0 and, of two conditions, S = edge.

    Successive projections onto the linearised conditions: a fixed point meets them, with what separates it from
    ``point`` normal to both.
    """
    point = np.asarray(point)
    theta = point
    for _ in range(200):
        left, normals = (array[:conditions] for array in conditions_of(dense, theta, edge))
        theta, before = (
            point - normals.T @ np.linalg.solve(normals @ normals.T, left + normals @ (point - theta)),
            theta,
        )
        if np.linalg.norm(theta - before) <= 1e-11 * (1 + np.linalg.norm(point)):
            return theta
    raise AssertionError(f"no fixed point within 200 projections; the last moved by {np.linalg.norm(theta - before)}")


# --- a small network --------------------------------------------------------------------------------------------------

INPUTS, WIDTH, SAMPLES = 6, 16, 40  # 129 parameters: above the size up to which eoslib forms the matrix
RATE = 0.1  # meets the edge with ε = .07, λ_2 at .42 · 2/η
STEPS, STRIDED, TRANSPORT = 40, 20, 10  # of the trajectories that the tests share: half a cycle
OPTIONS = dict(generalized=True, transport=TRANSPORT, start=0.0, kick=0.5, chunk=1, strided=STRIDED)  # and theirs


def mlp_params(seed: int = 0) -> dict:
    """Parameters of the network, a pytree."""
    rng = np.random.default_rng(seed)

    def uniform(*shape):
        return jnp.asarray(rng.uniform(-1, 1, shape) / np.sqrt(shape[0]))

    return {
        "hidden": {"kernel": uniform(INPUTS, WIDTH), "bias": jnp.zeros(WIDTH)},
        "out": {"kernel": uniform(WIDTH, 1), "bias": jnp.zeros(1)},
    }


def mlp_batch(seed: int = 1) -> tuple:
    """Inputs (n, d) and labels ±1 (n,) that no simple rule explains; the inputs' mean sets λ_1 apart from λ_2."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(0.7, 1, (SAMPLES, INPUTS))), jnp.asarray(np.sign(rng.normal(size=SAMPLES)))


def mlp_loss(params, batch):
    """Mean squared error of a tanh network with one hidden layer."""
    inputs, labels = batch
    hidden = jnp.tanh(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    return jnp.mean((hidden @ params["out"]["kernel"][:, 0] + params["out"]["bias"] - labels) ** 2)


@partial(jax.jit, static_argnums=(0, 1))
def _height(loss: Callable, order: int, w, theta, *constants):
    """d^order/ds^order L(θ + s ŵ) at s = 0 and its gradient in w, by forward derivatives along the line."""

    def height(w):
        def line(s):
            return loss(theta + s * w / jnp.linalg.norm(w), *constants)

        for _ in range(order):
            line = (lambda f: lambda s: jax.jvp(f, (s,), (1.0,))[1])(line)
        return line(0.0)

    return jax.value_and_grad(height)(w)


def largest_derivative(loss: Callable, order: int, restarts: int, theta, *constants) -> float:
    """Largest |d^order/ds^order L(θ + s w)| at s = 0 over unit w: L-BFGS on the sphere from random starts, up and down.

    ``loss`` takes θ (p,) and the constants.
    """
    rng = np.random.default_rng(0)

    def found(sign):
        def value(w):
            return tuple(-sign * np.asarray(part) for part in _height(loss, order, w, theta, *constants))

        return -optimize.minimize(value, rng.normal(size=theta.size), jac=True, method="L-BFGS-B").fun

    return max(found((-1) ** turn) for turn in range(restarts))


def descend_to_edge(dense: Dense, theta, learning_rate: float, max_steps: int = 5000):
    """Plain gradient descent, the dense sharpness at every tenth step, until S ≥ 2/η."""
    for step in range(max_steps):
        if step % 10 == 0 and dense.sharpness(theta) >= 2 / learning_rate:
            return theta
        theta = theta - learning_rate * dense.gradient(theta)
    raise AssertionError(f"S stayed below 2/η = {2 / learning_rate} for {max_steps} steps")


# --- closed forms -----------------------------------------------------------------------------------------------------


def toy_loss(theta, constants):
    """L(x, y, z) = ½(2/η + √β y)x² − (α/√β)y + ½λy² − g z, the constants a batch of one: one program serves all."""
    x, y, z = theta
    rate, alpha, beta, lam, drift = (c[0] for c in constants)
    root = jnp.sqrt(beta)
    return (2 / rate + root * y) * x**2 / 2 - (alpha / root) * y + lam * y**2 / 2 - drift * z


@dataclasses.dataclass(frozen=True)
class Toy:
    """:func:`toy_loss` with everything in closed form.

    On x = 0, y = 0 the point is on the boundary of the stable set, u is the x axis and δ² = 2α/β.
    """

    learning_rate: float = 0.02
    alpha: float = 1.0
    beta: float = 1.0
    lam: float = 0.0
    drift: float = 0.0

    @property
    def constants(self) -> tuple:
        return tuple(jnp.array([float(c)]) for c in dataclasses.astuple(self))

    def loss(self, theta):
        return toy_loss(theta, self.constants)

    def gradient(self, theta) -> np.ndarray:
        x, y, _ = theta
        root = self.beta**0.5
        along = (2 / self.learning_rate + root * y) * x
        return np.array([along, root * x**2 / 2 - self.alpha / root + self.lam * y, -self.drift])

    def _angle(self, theta) -> float:
        """Angle between u and the x axis: the Hessian's (x, y) block is [[k, √β x], [√β x, λ]]."""
        x, y, _ = theta
        root = self.beta**0.5
        return 0.5 * np.arctan2(2 * root * x, 2 / self.learning_rate + root * y - self.lam)

    def sharpness(self, theta) -> float:
        x, y, _ = theta
        k = 2 / self.learning_rate + self.beta**0.5 * y
        return (k + self.lam + np.sqrt((k - self.lam) ** 2 + 4 * self.beta * x**2)) / 2

    def eigenvector(self, theta) -> np.ndarray:
        return np.array([np.cos(self._angle(theta)), np.sin(self._angle(theta)), 0.0])

    def sharpness_gradient(self, theta) -> np.ndarray:
        """∇³L[u, u]: the only third derivative is T_xxy = √β."""
        u = self.eigenvector(theta)
        return self.beta**0.5 * np.array([2 * u[0] * u[1], u[0] ** 2, 0.0])

    def across(self, theta) -> np.ndarray:
        """∇S⊥."""
        u, slope = self.eigenvector(theta), self.sharpness_gradient(theta)
        return slope - (u @ slope) * u

    def alpha_at(self, theta) -> float:
        return -self.gradient(theta) @ self.sharpness_gradient(theta)

    def beta_at(self, theta) -> float:
        return self.across(theta) @ self.across(theta)

    def delta_squared_at(self, theta) -> float:
        return 2 * self.alpha_at(theta) / self.beta_at(theta)


POLYNOMIAL_RATE = 0.02


def _symmetric(rng, order: int, size: int) -> np.ndarray:
    tensor = rng.normal(size=(size,) * order)
    axes = list(itertools.permutations(range(order)))
    return sum(np.transpose(tensor, a) for a in axes) / len(axes)


def _polynomial(seed: int):
    """Pull p (5,), Hessian's diagonal (5,), third and fourth derivatives of :func:`polynomial`; and ∇S·p."""
    rng = np.random.default_rng(seed)
    hessian = np.array([2, 0, 0, 0.15, 0.5]) / POLYNOMIAL_RATE
    pull = np.array([0, 1, -0.2, 0, 0.3])
    pull /= np.linalg.norm(pull)
    cubic = np.zeros((5, 5, 5))
    block = 0.8 * _symmetric(rng, 2, 4)
    cubic[0, 1:, 1:] = cubic[1:, 0, 1:] = cubic[1:, 1:, 0] = block
    slope = np.array([1, 1, 0.6, 0, 0])
    cubic[0, 0, :] = cubic[0, :, 0] = cubic[:, 0, 0] = slope
    quartic = _symmetric(rng, 4, 5)
    quartic[0, 0, 0, 0] += 1
    quartic *= 0.5 * POLYNOMIAL_RATE
    return pull, hessian, cubic, quartic, pull @ slope


def polynomial(seed: int = 0) -> tuple[Callable, Callable]:
    """A quartic on R⁵ with the origin on the boundary of M: loss(θ, (g,)) with g (1,), and α ↦ (g,).

    L = −g p·θ + ½θᵀHθ + T[θ³]/6 + Q[θ⁴]/24, with H = diag(2/η, 0, 0, .15/η, .5/η): u is the first axis, at the origin
    ∇S = (1, 1, .6, 0, 0) and −∇L·∇S = α.
    """
    pull, hessian, cubic, quartic, rise = _polynomial(seed)

    def loss(theta, constants):
        hessian_, cubic_, quartic_, pull_ = (
            jnp.asarray(a, theta.dtype) for a in (hessian / 2, cubic / 6, quartic / 24, pull)
        )
        return theta @ (hessian_ * theta + (cubic_ + quartic_ @ theta) @ theta @ theta - constants[0][0] * pull_)

    return loss, lambda alpha: (jnp.array([alpha / rise]),)


def dense_polynomial(seed: int, alpha: float) -> Dense:
    """The derivatives of :func:`polynomial` in closed form, by NumPy alone."""
    pull, hessian, cubic, quartic, rise = _polynomial(seed)
    force, third = alpha / rise * pull, lambda theta: cubic + quartic @ np.asarray(theta)

    def gradient(theta):
        theta = np.asarray(theta)
        return hessian * theta + (cubic / 2 + quartic @ theta / 6) @ theta @ theta - force

    return Dense(
        lambda theta: theta @ (hessian * theta / 2 + (cubic / 6 + quartic @ theta / 24) @ theta @ theta - force),
        gradient,
        lambda theta: np.diag(hessian) + (cubic + quartic @ np.asarray(theta) / 2) @ np.asarray(theta),
        lambda theta, v: third(theta) @ v @ v, lambda theta, v, w: third(theta) @ v @ w,
        lambda theta, v: quartic @ v @ v @ v,
    )  # fmt: skip
