"""Gradient descent on three losses small enough to solve: one number, two factors, a product of several.

* ``L = (x² − 1)²/4``: a step is a cubic map, whose phases by step size are known in closed form (quadratic
  regression, arXiv 2310.01687; thresholds and cycle derived for this project).
* ``L = log cosh(xy)``: all starts fall on one curve and end at one sharpness (trajectory alignment, arXiv 2307.04204;
  the constant derived for this project).
* ``L = ½(∏θ_i − 1)²``: the sharpness of the gradient flow's solution never rises (arXiv 2305.13064).

All in NumPy, float64, elementwise over any shapes.

>>> x = two_cycle(1.1)
>>> print(np.allclose(cubic_step(x, 1.1), x[::-1]), round(float(x.prod() * 1.1), 12))
True 1.0
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jax.typing import ArrayLike

#: Where the phases of the cubic map end, in a = ηS_min/2: the loss always falls; the minimum attracts; the 2-cycle
#: attracts; bounded starts stay bounded.
PHASES = {"monotone": 2 * 2**0.5 - 2, "minimum": 1.0, "two-cycle": 5**0.5 - 1, "bounded": 2.0}


def cubic_loss(x: ArrayLike) -> ArrayLike:
    """Return L = (x² − 1)²/4, whose minima x = ±1 have the sharpness S_min = 2."""
    return (np.square(x) - 1) ** 2 / 4


def cubic_step(x: ArrayLike, a: ArrayLike) -> ArrayLike:
    """Return x − ηL'(x) = x(1 + a − ax²), one step of gradient descent with η = a = ηS_min/2."""
    return np.asarray(x) * (1 + a - a * np.square(x))


def cubic_orbit(x: ArrayLike, a: ArrayLike, steps: int) -> ArrayLike:
    """Return x after 0, 1, …, ``steps`` steps, shape (steps + 1, ...)."""
    path = [np.asarray(x, float) + 0 * np.asarray(a, float)]
    with np.errstate(over="ignore", invalid="ignore"):  # diverging starts end in inf or NaN, which the caller sees
        for _ in range(steps):
            path.append(cubic_step(path[-1], a))
    return np.stack(path)


def cubic_bound(a: ArrayLike) -> ArrayLike:
    """Return √(1 + 2/a), beyond which |x| grows at every step."""
    return np.sqrt(1 + 2 / np.asarray(a, float))


def two_cycle(a: float) -> np.ndarray:
    """Return the positive 2-cycle (2,), smaller point first: x₁x₂ = 1/a and (x₁ + x₂)² = 1 + 3/a.

    Its multiplier is 9 − 2(1 + a)², from 1 at a = 1 to −1 at a = √5 − 1.

    Raises:
        ValueError: for a ≤ 1, where there is none.
    """
    if not a > 1:
        raise ValueError(f"a must exceed 1 for a 2-cycle, got {a!r}")
    total, apart = (1 + 3 / a) ** 0.5, (1 - 1 / a) ** 0.5  # (x₁ − x₂)² = 1 + 3/a − 4/a
    return np.array([total - apart, total + apart]) / 2


def bisect(holds: Callable[[float], bool], low: float, high: float, *, precision: float = 1e-6) -> float:
    """Return where a condition that holds at ``low`` and not at ``high`` ends, to a ``precision``.

    Raises:
        ValueError: if it does not hold at ``low``, or still holds at ``high``.
    """
    if not holds(low) or holds(high):
        raise ValueError(f"the condition must hold at {low!r} and not at {high!r}")
    while high - low > precision:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return (low + high) / 2


def measured_phases(*, starts: int = 20_001, steps: int = 20_000) -> dict[str, float]:
    """Find the ends of :data:`PHASES` by bisection of iterated maps; no closed form enters but the bound of the starts.

    Close to a doubling an orbit settles within about 1/|a − a*| steps, which limits its precision to 4/``steps``.
    """

    def always_falls(a):
        x = np.linspace(0, cubic_bound(a), starts)[:-1]
        return bool(np.all(cubic_loss(cubic_step(x, a)) <= cubic_loss(x) + 1e-12))

    def settles(period):
        def holds(a):
            x = 0.9
            for _ in range(steps):
                x = x * (1 + a - a * x * x)
            end = x
            for _ in range(period):
                x = x * (1 + a - a * x * x)
            return abs(x - end) < 1e-3

        return holds

    def stays(a):
        x = np.linspace(0, cubic_bound(a), 201)[1:-1]
        return bool(np.all(np.isfinite(cubic_orbit(x, a, 2000)[-1])))

    return {
        "monotone": bisect(always_falls, 0.5, 1.0, precision=1e-5),
        "minimum": bisect(settles(1), 0.9, 1.1, precision=1e-5),
        "two-cycle": bisect(settles(2), 1.1, 1.3, precision=1e-5),
        "bounded": bisect(stays, 1.9, 2.1, precision=1e-4),
    }


def valley_step(x, y, learning_rate: float):
    """Return (x', y') after one step of gradient descent on log cosh(xy)."""
    force = learning_rate * np.tanh(x * y)
    return x - force * y, y - force * x


def valley_orbit(x: ArrayLike, y: ArrayLike, learning_rate: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y after 0, …, ``steps`` steps on log cosh(xy), each of shape (steps + 1, ...)."""
    path = [(np.asarray(x, float), np.asarray(y, float))]
    for _ in range(steps):
        path.append(valley_step(*path[-1], learning_rate))
    xs, ys = zip(*path, strict=True)
    return np.stack(xs), np.stack(ys)


def aligned(x, y, learning_rate: float):
    """Return p = xy and q = 2/(ηy²): the steepness ηy²/2 of the valley along x is 1/q of the edge."""
    return x * y, 2 / (learning_rate * np.square(y))


def alignment_curve(p: ArrayLike) -> ArrayLike:
    """Return tanh(p)/p, on which one step turns p into −p when x² ≪ y²."""
    p = np.asarray(p, float)
    return np.where(np.abs(p) < 1e-8, 1.0, np.tanh(p) / np.where(p == 0, 1.0, p))


def valley_sharpness(x, y):
    """Return the largest eigenvalue of the Hessian of log cosh(xy)."""
    p = x * y
    curved, slope = 1 / np.cosh(p) ** 2, np.tanh(p)
    along, across, mixed = curved * y**2, curved * x**2, curved * p + slope
    return (along + across) / 2 + np.hypot((along - across) / 2, mixed)


def final_sharpness(learning_rate: float) -> float:
    """Return ηS/2 where every start ends, to order η²: 1 − ¾η² (arXiv 2307.04204 gives the order)."""
    return 1 - 0.75 * learning_rate**2


def product_step(theta: ArrayLike, learning_rate: float) -> ArrayLike:
    """Take one step of gradient descent on ½(∏θ_i − 1)², θ of shape (..., D) without zeros."""
    product = np.prod(theta, -1, keepdims=True)
    return theta - learning_rate * (product - 1) * product / theta


def product_loss(theta: ArrayLike) -> ArrayLike:
    """Return ½(∏θ_i − 1)² for θ of shape (..., D)."""
    return (np.prod(theta, -1) - 1) ** 2 / 2


def flow_solution(theta: ArrayLike) -> ArrayLike:
    """Return the minimum (..., D) that the gradient flow reaches from θ > 0: θ*_i² = θ_i² + c with ∏θ*_i = 1.

    The flow moves all θ_i² at one rate, −2(∏ − 1)∏, so their differences are conserved.  The shift c solves Σ ln(θ_i² +
    c) = 0, an increasing and concave function of c > −min θ_i², by Newton's method in ln(min θ_i² + c).
    """
    squares = np.square(theta)
    least = squares.min(-1, keepdims=True)
    above = squares - least  # ≥ 0, and the unknown is s = least + c > 0
    log_s = np.zeros_like(least)
    for _ in range(40):
        s = np.exp(log_s)
        value = np.log(above + s).sum(-1, keepdims=True)
        slope = (s / (above + s)).sum(-1, keepdims=True)
        log_s = log_s - value / slope
    return np.sqrt(above + np.exp(log_s))


def ray_solution(theta: ArrayLike) -> ArrayLike:
    """Return the minimum on the ray through θ > 0, which keeps the ratios of the θ_i: not what the flow conserves."""
    return theta / np.exp(np.log(theta).mean(-1, keepdims=True))


def solution_sharpness(theta: ArrayLike) -> ArrayLike:
    """Return Σ 1/θ_i², the sharpness at a minimum ∏θ_i = 1, whose Hessian is ∇∏ ∇∏ᵀ."""
    return (1 / np.square(theta)).sum(-1)
