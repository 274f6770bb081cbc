"""Gradient descent at the edge of stability in two variables.

Along the leading eigenvector u of the Hessian let x be the displacement from the constrained trajectory (a length)
and y the excess of the sharpness over 2/η (a curvature).  A cubic model of the loss turns gradient descent into the map

    x' = −(1 + ηy) x − η s x²/2 − η q x³,      y' = (1 − d) y + η (α − βx²/2)

and, for small steps and q = d = s = 0, into the flow X' = XY, Y' = α − βX²/2 in τ = ηt with X = |x|.  Every closed form
below belongs to this flow unless it says otherwise.  Source: arXiv 2209.15594 (heuristic derivation of the cycle);
orbit formulas, drift and damping threshold are derived for this project from the same two equations.

>>> x, y = iterate(1e-3, 0.0, 500, learning_rate=0.02, alpha=1.0, beta=2.0)
>>> round(float(peak_amplitude(1e-3, alpha=1.0, beta=2.0)), 2)
4.08
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eoslib.geometry import LocalGeometry, epsilon, radius_squared
from eoslib.rules import GradientDescent


def _positive(**values: ArrayLike) -> None:
    for name, value in values.items():
        if not isinstance(value, jax.core.Tracer) and not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name} must be positive, got {value!r}")


def reduced_step(x, y, *, learning_rate, alpha, beta, damping=0.0, quartic=0.0, skew=0.0):
    """Take one gradient-descent step of :class:`ToyLoss` in (x, y); any broadcastable shapes.

    Args:
        x: Displacement along u (length).
        y: Excess sharpness (curvature) at x = 0.
        learning_rate: η (1/curvature).
        alpha: Progressive sharpening α (curvature²).
        beta: Self-stabilization β (curvature²/length²).
        damping: d = ηλ, the part of y forgotten in a step; λ is the valley's curvature along ∇S⊥.
        quartic: q (curvature/length²), from the term q x⁴/4 of the valley; q > 0 steepens it.
        skew: s = ∇S·u (curvature/length), from the term s x³/6 of the valley.
    """
    return (
        -(1 + learning_rate * y) * x - learning_rate * (skew * x**2 / 2 + quartic * x**3),
        (1 - damping) * y + learning_rate * (alpha - beta * x**2 / 2),
    )


def iterate(
    x, y, steps: int, *, momentum: ArrayLike = 0.0, noise: ArrayLike = 0.0, key: Any = None, **parameters
) -> tuple[Array, Array]:
    """Iterate the map from (x, y): two arrays of shape (steps + 1, ...), the start first.

    With momentum −μ(x + x₋) and μ(y − y₋) are added, (x₋, y₋) one step ago, and y is the excess over heavy ball's edge:
    x' = (1 + μ − ηS)x − μx₋ for S = (2 + 2μ)/η + y.  Where it moves slowly this is gradient descent's map with steps
    η/(1 − μ), with the same δ and H, but H drifts (1 + μ)/(1 − μ) times as much per cycle as under those steps (derived
    for this project).  It starts from a 2-cycle, x₋ = −x and y₋ = y.

    Args:
        x: Displacement along u (length), any shape that broadcasts with ``y``.
        y: Excess sharpness (curvature).
        steps: Number of steps.
        momentum: μ in [0, 1).
        noise: σ (length/step size, a gradient) of the standard normal noise ησξ that is added to x.
        key: JAX's random key of that noise.
        parameters: Those of :func:`reduced_step`.  A diverging track ends in inf or NaN, which the caller sees.

    Raises:
        ValueError: if ``steps`` < 1, the momentum is not in [0, 1), or there is noise without a key.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps!r}")
    known = [not isinstance(size, jax.core.Tracer) for size in (momentum, noise)]
    if known[0] and not np.all((np.asarray(momentum) >= 0) & (np.asarray(momentum) < 1)):
        raise ValueError(f"momentum must lie in [0, 1), got {momentum!r}")
    absent = [sure and not np.any(np.asarray(size)) for sure, size in zip(known, (momentum, noise), strict=True)]
    if not absent[1] and key is None:
        raise ValueError(f"noise={noise!r} needs a random key, got None")
    start = (jnp.asarray(x, float), jnp.asarray(y, float))
    further = None if absent[0] else momentum, None if absent[1] else noise, None if absent[1] else key
    return _iterate(start, parameters, *further, steps)


@jax.jit(static_argnames=("steps",))
def _iterate(start, parameters, momentum, noise, key, steps):
    keys = None if noise is None else jax.random.split(key, steps)

    def step(state, key):
        (x, y), (old_x, old_y) = state
        new_x, new_y = reduced_step(x, y, **parameters)
        if momentum is not None:
            new_x, new_y = new_x - momentum * (x + old_x), new_y + momentum * (y - old_y)
        if noise is not None:
            new_x = new_x + parameters["learning_rate"] * noise * jax.random.normal(key, jnp.shape(x))
        return ((new_x, new_y), (x, y)), (x, y)

    (last, _), track = jax.lax.scan(step, (start, (-start[0], start[1])), keys, length=steps)
    return tuple(jnp.concatenate([t, end[None]]) for t, end in zip(track, last, strict=True))


def _flow_in_logarithms(_, state, strengths):
    """(ln|x|, y)' for diffrax; one function for all calls, so that they share its compiled solver."""
    log_x, y = state
    alpha, beta = strengths
    return y, alpha - beta * jnp.exp(2 * log_x) / 2


def orbit(x, y, times: ArrayLike, *, alpha, beta, tolerance: float = 1e-12) -> tuple[Array, Array]:
    """Integrate the flow's (|x|, y) to increasing ``times`` τ = ηt ≥ 0, started from scalars (x ≠ 0, y) at τ = 0.

    Integrated in ln|x|, so that |x| stays positive over any number of decades.  ``tolerance`` is the solver's local
    error per step (absolute and relative); 1e-12 leaves float64 three digits for rounding.  Fails with diffrax's own
    worded error when it needs more than 100,000 steps beyond those that end at ``times``.
    """
    import diffrax  # the extra "theory": only orbits need it

    _positive(alpha=alpha, beta=beta, x=jnp.abs(x))
    times = jnp.asarray(times, float)
    start = (jnp.log(jnp.abs(jnp.asarray(x, float))), jnp.asarray(y, float))
    # Steps end at the wanted times: the solver's interpolation between steps is a thousand times coarser.
    steps = diffrax.ClipStepSizeController(diffrax.PIDController(rtol=tolerance, atol=tolerance), step_ts=times)
    log_x, y = diffrax.diffeqsolve(
        diffrax.ODETerm(_flow_in_logarithms), diffrax.Dopri8(), t0=0.0, t1=times[-1], dt0=None, y0=start,
        args=(jnp.asarray(alpha, float), jnp.asarray(beta, float)), saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=steps, max_steps=100_000 + len(times),
    ).ys  # fmt: skip
    return jnp.exp(log_x), y


def radius(*, alpha, beta):
    """Return δ = √(2α/β), a length: the flow rests at |x| = δ, y = 0, where the map hops between x = ±δ."""
    return jnp.sqrt(radius_squared(alpha, beta))


def conserved(x, y, *, alpha, beta):
    """Return H = y²/2 + βx²/4 − α ln|x| (curvature², up to α·ln of the unit of length), constant along the flow.

    Source: arXiv 2209.15594, according to arXiv 2609.01034.
    """
    return y**2 / 2 + beta * x**2 / 4 - alpha * jnp.log(jnp.abs(x))


def map_drift(x, y, *, learning_rate, alpha, beta):
    """Return the growth of H in an undamped map step to second order in η: ½η²[(α − βx²/2)² + y²(α + βx²/2)] ≥ 0.

    In X = x/δ, Y = y/√α this is α·(ε²/2)[(1 − X²)² + Y²(1 + X²)]: the map spirals outwards.
    """
    force = beta * x**2 / 2
    return learning_rate**2 / 2 * ((alpha - force) ** 2 + y**2 * (alpha + force))


def damping_threshold(*, learning_rate, alpha, beta=1.0, quartic=0.0, skew=0.0):
    """Return (2 − κ)ε² + 2ηqδ² with κ = s²/β: the map's 2-cycle attracts iff the damping d exceeds it.

    To leading order.  Less d it is the determinant's excess over one at the 2-cycle, and by how much h = H/α grows in a
    step, averaged over a cycle, in units of ⟨y²⟩/α.  Two steps of a skew valley are two steps of one with q = −ηs²/4,
    which flattens.  arXiv 2609.01034 has the skewness's part as 2 − 9ζ².
    """
    curved = 2 * quartic - learning_rate * skew**2 / 2  # twice the quartic term that two steps feel
    square = epsilon(jnp.asarray(alpha, float), learning_rate) ** 2
    return 2 * square + learning_rate * curved * radius_squared(alpha, beta)


def _energy_gap(x0, alpha, beta):
    """H − ½ = (X₀² − 1)/2 − ln X₀ ≥ 0 of a cycle through (x₀, 0), with X₀ = |x₀|/δ."""
    _positive(alpha=alpha, beta=beta, x0=jnp.abs(x0))
    ratio = jnp.abs(jnp.asarray(x0, float)) / radius(alpha=alpha, beta=beta)
    return jnp.maximum((ratio - 1) * (ratio + 1) / 2 - jnp.log(ratio), 0.0)


def peak_amplitude(x0, *, alpha, beta):
    """Return the largest |x| of the cycle through (x₀, y = 0), a length: δ·√(−W₋₁(−X₀² e^{−X₀²})).

    The upper branch of z − ln z = X₀² − ln X₀² for z = X², by Newton's method from an upper bound, whence it falls
    monotonically; eight steps reach rounding for every X₀ (tested against scipy's Lambert W).  About δ√(2 ln(δ/|x₀|)).
    """
    gap = 2 * _energy_gap(x0, alpha, beta)  # s − ln(1 + s) = gap for s = z − 1
    excess = jnp.sqrt(2 * gap) + gap  # an upper bound: Chatzigeorgiou, arXiv 1601.04895 (bounds on Lambert's W₋₁)
    for _ in range(8):
        slope = jnp.where(excess > 0, excess / (1 + excess), 1.0)
        excess = jnp.maximum(excess - (excess - jnp.log1p(excess) - gap) / slope, 0.0)
    return radius(alpha=alpha, beta=beta) * jnp.sqrt(1 + excess)


def peak_sharpness(x0, *, alpha, beta):
    """Return the largest y of the cycle through (x₀, 0), a curvature: √α·√(X₀² − 2 ln X₀ − 1), met where |x| = δ."""
    return jnp.sqrt(alpha) * jnp.sqrt(2 * _energy_gap(x0, alpha, beta))


def small_period(*, learning_rate, alpha):
    """Return √2·π/ε steps, the period of small oscillations around (δ, 0)."""
    return jnp.sqrt(2.0) * jnp.pi / epsilon(jnp.asarray(alpha, float), learning_rate)


def cycle_period(x0, *, learning_rate, alpha, beta, nodes: int = 4000):
    """Return the period in steps (not rounded) of the cycle through the scalar (x₀, 0), 0 < |x₀| < δ, by quadrature.

    w = ln X moves in the potential e^{2w}/2 − w, so the period is 2∫dw/√(2(E − V)) between the turning points; with
    w = mean + half·sin φ the integrand is smooth and periodic in φ, and the midpoint rule converges faster than any
    power.
    """
    delta = radius(alpha=alpha, beta=beta)
    low = jnp.log(jnp.abs(jnp.asarray(x0, float)) / delta)
    high = jnp.log(peak_amplitude(x0, alpha=alpha, beta=beta) / delta)
    angle = (jnp.arange(nodes, dtype=float) + 0.5) * (jnp.pi / nodes) - jnp.pi / 2
    half = (high - low) / 2
    up, down = half * (1 + jnp.sin(angle)), half * (1 - jnp.sin(angle))  # distances from the two turning points
    # 2(E − V), written from the nearer turning point because the terms cancel there
    kinetic = jnp.where(
        up < down, 2 * up - jnp.exp(2 * low) * jnp.expm1(2 * up), -jnp.exp(2 * high) * jnp.expm1(-2 * down) - 2 * down
    )
    duration = 2 * jnp.sum(half * jnp.cos(angle) / jnp.sqrt(kinetic)) * (jnp.pi / nodes)
    return duration / epsilon(jnp.asarray(alpha, float), learning_rate)


class Stages(NamedTuple):
    """Which stage each step is in, and where the stages begin."""

    stage: np.ndarray  # (T,) 1 progressive sharpening, 2 blow-up, 3 self-stabilization, 4 return to stability
    start: np.ndarray  # (k,) first step of each stretch; start[0] = 0
    entered: np.ndarray  # (k,) the stage that the stretch is in


def cycle_starts(y) -> np.ndarray:
    """Return the steps that bound whole cycles: 0, where S = 2/η, and each at which y (T,) turns from < 0 to ≥ 0."""
    y = np.asarray(y)
    return np.r_[0, np.flatnonzero((y[:-1] < 0) & (y[1:] >= 0)) + 1]


def stages(x, y, delta) -> Stages:
    """Cut a track into the four stages; works on the toy and on a real network's (x_t, y_t, δ_t).

    The stages are the quadrants of (ln|x|/δ, y): 1 ends when y > 0, 2 when |x| > δ, 3 when y < 0, 4 when |x| < δ.  A
    stage ends once and only forwards, so that noise at a boundary cannot send the track back.

    Args:
        x: Displacements along u, shape (T,).
        y: Excess sharpness, shape (T,).
        delta: Radius δ, a scalar or shape (T,).

    Raises:
        ValueError: on unequal lengths, or where δ is not positive and finite (the constraint is inactive there: cut the
            track to the part with α > 0 first).
    """
    x, y = np.abs(np.asarray(x, float)), np.asarray(y, float)
    if x.ndim != 1 or x.shape != y.shape or len(x) == 0:
        raise ValueError(f"x and y must have one and the same shape (T,), T ≥ 1, got {x.shape} and {y.shape}")
    delta = np.broadcast_to(np.asarray(delta, float), x.shape)
    if not (np.all(np.isfinite(delta)) and np.all(delta > 0)):
        raise ValueError(f"delta must be positive and finite at every step, got a minimum of {np.min(delta)!r}")
    leaves = np.stack([y > 0, x > delta, y < 0, x < delta])  # (4, T)
    stage = np.empty(len(x), int)
    quadrants = {(False, False): 1, (False, True): 2, (True, True): 3, (True, False): 4}
    stage[0] = quadrants[bool(x[0] > delta[0]), bool(y[0] > 0)]
    for t in range(1, len(x)):
        stage[t] = stage[t - 1] % 4 + 1 if leaves[stage[t - 1] - 1, t] else stage[t - 1]
    start = np.flatnonzero(np.diff(stage, prepend=0))
    return Stages(stage, start, stage[start])


class ToyLoss(NamedTuple):
    """L(x, w) = ½(2/η + √β w)x² + s x³/6 + q x⁴/4 − (α/√β)w + ½λw², and −g z on a third coordinate if ``drift`` is set.

    θ = (x, w) or (x, w, z).  With y = √β·w, gradient descent with step η is :func:`reduced_step` with damping d = ηλ.
    θ = 0 lies on the stable set's edge, with the given α, β and u = e_x; constrained gradient descent rests there, or
    moves by ηg per step along z.  The paper's own toy is not known; this one is the project's own.
    """

    learning_rate: float
    alpha: float
    beta: float
    stiffness: float = 0.0  # λ, curvature along w
    quartic: float = 0.0  # q
    skew: float = 0.0  # s = ∇S·u at θ = 0, so that ∇S and ∇S⊥ differ
    drift: float | None = None  # g, the slope along z

    def loss(self, theta: ArrayLike) -> ArrayLike:
        """Return the loss at θ of shape (2,), or (3,) with ``drift``."""
        x, w = theta[0], theta[1]
        curvature = GradientDescent(self.learning_rate).edge + self.beta**0.5 * w
        valley = curvature * x**2 / 2 + self.skew * x**3 / 6 + self.quartic * x**4 / 4
        value = valley - self.alpha / self.beta**0.5 * w + self.stiffness * w**2 / 2
        return value if self.drift is None else value - self.drift * theta[2]

    def geometry(self, theta: ArrayLike) -> LocalGeometry:
        """Return the local geometry at θ in closed form, where the valley's curvature along x exceeds max(λ, 0)."""
        x, w, root = theta[0], theta[1], self.beta**0.5
        curvature = GradientDescent(self.learning_rate).edge + root * w
        along = curvature + self.skew * x + 3 * self.quartic * x**2
        slope = curvature * x + self.skew * x**2 / 2 + self.quartic * x**3
        gradient = [slope, root * x**2 / 2 - self.alpha / root + self.stiffness * w]
        half = (along - self.stiffness) / 2
        excess = half + jnp.hypot(half, root * x)  # S − λ
        norm = jnp.hypot(excess, root * x)
        u_x, u_w = excess / norm, root * x / norm
        d_sharpness = [u_x**2 * (self.skew + 6 * self.quartic * x) + 2 * u_x * u_w * root, u_x**2 * root]
        rest = [] if self.drift is None else [jnp.zeros_like(x)]
        gradient = jnp.stack(gradient + [r - self.drift for r in rest])
        u, sharpness = jnp.stack([u_x, u_w, *rest]), self.stiffness + excess
        products = jnp.zeros((), jnp.int32)
        return LocalGeometry.single(
            self.loss(theta), gradient, sharpness, u, sharpness * u, jnp.stack([*d_sharpness, *rest]), products
        )
