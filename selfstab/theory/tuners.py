"""Update rules that choose their own step size η_t at every step: θ' = θ − η_t ∇L(θ).

Each is an eoslib rule whose memory holds the η_t of the step just taken.  Its edge, which moves with it, is 2/η_t, and
not among what the library's loop returns.  Costs are those of a step beyond its gradient.

>>> import jax.numpy as jnp
>>> objective = Objective.create(lambda p: jnp.array([1.0, 4.0]) @ p**2 / 2, jnp.ones(2))
>>> theta = jnp.ones(2)
>>> loss, gradient = objective.value_and_grad(theta)
>>> for rule in (CurvatureTuner(1.0), CurvatureTuner(2.0), PolyakStep()):
...     print(round(float(rule.step(objective, theta, rule.init(theta), loss, gradient)[1].rate), 4))
0.2615
0.5231
0.1471
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eoslib.objective import Objective, inner, length
from eoslib.position import Theta
from eoslib.rules import GradientDescent, Rule

#: Losses that a line search remembers.
LONGEST_WINDOW = 10


class Rate(NamedTuple):
    """What a rule without a past remembers."""

    rate: Float[Array, ""]  # η_t of the last step (1/curvature)


class Search(NamedTuple):
    """What a line search remembers."""

    rate: Float[Array, ""]  # η_t of the last step; the next trial starts above it
    recent: Float[Array, " m"]  # the last losses, newest first, −∞ before the first step
    trials: Int[Array, ""]  # losses evaluated in all


class Distance(NamedTuple):
    """What DoWG remembers."""

    rate: Float[Array, ""]  # η_t of the last step
    start: Float[Array, " p"]  # θ_0, rounded
    farthest: Float[Array, ""]  # r̄, the largest distance from θ_0 so far
    total: Float[Array, ""]  # Σ r̄²‖∇L‖²


class Tuner(Rule):
    """A rule of this module: ``choose`` returns η_t and the memory of the step that takes it."""

    def init(self, theta: Theta) -> Any:
        """Return the memory before the first step."""
        return Rate(jnp.zeros((), theta.dtype))

    def rate(self, memory: Any) -> Any:
        """Return η_t of the step that ended in this memory."""
        return memory.rate

    def choose(
        self, objective: Objective, theta: Theta, memory: Any, loss: Float[Array, ""], gradient: Float[Array, " p"]
    ) -> Any:
        """Return the memory after this step, its η_t in it."""
        raise NotImplementedError(f"{type(self).__name__} must define choose")

    def step(self, objective, theta, memory, loss, gradient):
        """Return (θ − η_t ∇L, memory')."""
        memory = self.choose(objective, theta, memory, loss, gradient)
        return GradientDescent(memory.rate).update(theta, gradient), memory


@dataclasses.dataclass(frozen=True)
class CurvatureTuner(Tuner):
    """η = σ‖g‖²/|g·∇²L g|, the curvature taken along the gradient g (CDAT, arXiv 2407.06183); one product.

    On a parabola σ = 1 minimizes the loss along g, and σ = 2 leaves it where it was: the edge.
    """

    sigma: Any = 2.0

    def choose(self, objective, theta, memory, loss, gradient):
        """Return the rate from one Hessian-vector product."""
        curvature = jnp.abs(inner(gradient, objective.hvp(theta, gradient)))
        return Rate(jnp.asarray(self.sigma, gradient.dtype) * inner(gradient, gradient) / curvature)


@dataclasses.dataclass(frozen=True)
class LineSearch(Tuner):
    """Backtrack from ``growth``·(last η) by ``factor`` until L(θ − ηg) ≤ reference − c·η‖g‖²; a loss per trial.

    The reference is L(θ) for ``window`` 1 (Armijo), and otherwise the largest of the last losses, so many as
    ``window``, at most :data:`LONGEST_WINDOW`: the loss may rise (nonmonotone: Grippo, Lampariello and Lucidi 1986).
    All windows share one compiled program.
    """

    slope: Any = 0.1  # c, the fraction of the slope's decrease that is asked for
    growth: Any = 1.5
    factor: Any = 0.8
    first: Any = 1.0  # η from which the first step's trial grows
    window: Any = 1

    def init(self, theta):
        """Return the memory before the first step.

        Raises:
            ValueError: if the window is out of its range (traced values pass).
        """
        if not isinstance(self.window, jax.core.Tracer) and not 1 <= self.window <= LONGEST_WINDOW:
            raise ValueError(f"window must lie in 1..{LONGEST_WINDOW}, got {self.window!r}")
        recent = jnp.full(LONGEST_WINDOW, -jnp.inf, theta.dtype)
        return Search(jnp.asarray(self.first, theta.dtype), recent, jnp.zeros((), jnp.int32))

    def choose(self, objective, theta, memory, loss, gradient):
        """Return the first rate that is accepted, or the last of 100 trials."""
        dtype = memory.rate.dtype
        recent = jnp.roll(memory.recent, 1).at[0].set(loss.astype(dtype))
        reference = jnp.max(recent, where=jnp.arange(LONGEST_WINDOW) < self.window, initial=-jnp.inf)
        square = inner(gradient, gradient).astype(dtype)

        def refused(carry):
            rate, count = carry
            wanted = reference - jnp.asarray(self.slope, dtype) * rate * square
            return (count < 100) & ~(objective.loss(GradientDescent(rate).update(theta, gradient)) <= wanted)

        def shorten(carry):
            return jnp.asarray(self.factor, dtype) * carry[0], carry[1] + 1

        begin = jnp.asarray(self.growth, dtype) * memory.rate, jnp.ones((), jnp.int32)
        rate, count = jax.lax.while_loop(refused, shorten, begin)
        return Search(rate, recent, memory.trials + count)


@dataclasses.dataclass(frozen=True)
class PolyakStep(Tuner):
    """η = (L − L*)/‖g‖², with the least loss ``lowest`` known, here 0 (Polyak 1969; at the edge: arXiv 2312.00209)."""

    lowest: Any = 0.0

    def choose(self, objective, theta, memory, loss, gradient):
        """Return the rate at which the tangent of the loss reaches L*."""
        return Rate((loss - jnp.asarray(self.lowest, loss.dtype)) / inner(gradient, gradient))


@dataclasses.dataclass(frozen=True)
class DistanceTuner(Tuner):
    """η = r̄²/√(Σ r̄²‖g‖²), with r̄ the largest distance from the start, r₀ at least (DoWG, arXiv 2305.16284)."""

    first: Any = 0.01  # r₀, a length

    def init(self, theta):
        """Return the memory before the first step: θ_0 itself."""
        zero = jnp.zeros((), theta.dtype)
        return Distance(zero, theta.astype(theta.dtype), zero + jnp.asarray(self.first, theta.dtype), zero)

    def choose(self, objective, theta, memory, loss, gradient):
        """Return the rate from the path so far."""
        farthest = jnp.maximum(memory.farthest, length(theta - memory.start))
        total = memory.total + farthest**2 * inner(gradient, gradient).astype(farthest.dtype)
        return Distance(farthest**2 / jnp.sqrt(total), memory.start, farthest, total)


#: The rules of the chapter, by the name that its figures use.
TUNERS = {
    "Armijo": LineSearch(),
    "CDAT, $\\sigma=1$": CurvatureTuner(1.0),
    "CDAT, $\\sigma=2$": CurvatureTuner(2.0),
    "nonmonotone": LineSearch(window=10),
    "Polyak": PolyakStep(),
    "DoWG": DistanceTuner(),
}
