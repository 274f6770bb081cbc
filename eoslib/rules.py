"""Update rules: what a step makes of the gradient, and the sharpness at which it turns unstable, its *edge*.

A rule is a JAX pytree whose leaves are its rates, so that one compiled program serves every learning rate.  What it
remembers from step to step, its *memory*, is passed beside θ.  Each edge is that of the rule on a parabola ½Sx², where
a root of the characteristic polynomial passes −1.

>>> GradientDescent(0.02).edge, HeavyBall(0.02, momentum=0.5).edge
(100.0, 150.0)
>>> resolve(-1.0)
Traceback (most recent call last):
ValueError: learning_rate must be positive and finite, got -1.0
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from eoslib.objective import Objective, length
from eoslib.position import Theta

#: A further eigenvalue counts as unstable from this fraction of the edge on: one direction no longer suffices there.
EDGE_FRACTION = 0.95


@dataclasses.dataclass(frozen=True)
class Rule:
    """What every rule offers.  A rule of your own is a frozen dataclass on this, with ``step``.

    Every subclass is a JAX pytree of its fields, those with ``metadata={"static": True}`` part of its structure.
    """

    def __init_subclass__(cls, **options):
        # Not by register_dataclass: JAX 0.10.2 takes two such classes with as many fields for one structure, and so
        # now and then runs the compiled program of the one for the other.
        super().__init_subclass__(**options)
        jax.tree_util.register_pytree_with_keys(cls, _flattened, partial(_restored, cls))

    @property
    def edge(self) -> Any:
        """Largest stable curvature on a parabola, or None if there is no such constant."""
        return None

    def edge_at(self, gradient_norm: Any) -> Any:
        """Return the edge where the gradient has this norm; the same everywhere for most rules."""
        return self.edge

    def init(self, theta: Theta) -> Any:
        """Return the memory before the first step, a pytree of arrays: () for a rule without one."""
        return ()

    def step(
        self, objective: Objective, theta: Theta, memory: Any, loss: Float[Array, ""], gradient: Float[Array, " p"]
    ) -> tuple[Any, Any]:
        """Return (θ', memory') from the loss and gradient at θ; a rule may ask ``objective`` for more."""
        raise NotImplementedError(f"{type(self).__name__} must define step")

    def rate(self, memory: Any) -> Any:
        """Return the learning rate of the step that ended in this memory, or None."""
        return getattr(self, "learning_rate", None)

    def scale(self, memory: Any) -> Any:
        """Return r = P^(−1/2) (p,) of the step that ended in this memory: the edge bounds λ₁ of v ↦ r∘∇²L(r∘v).

        None without a preconditioner P: the edge bounds the sharpness.
        """
        return None


def _names(cls: type, static: bool) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.metadata.get("static", False) == static]


def _flattened(rule: Any):
    leaves = [(jax.tree_util.GetAttrKey(name), getattr(rule, name)) for name in _names(type(rule), False)]
    return leaves, tuple(getattr(rule, name) for name in _names(type(rule), True))


def _restored(cls: type, static: tuple, leaves: Any):
    return cls(**dict(zip(_names(cls, True), static)), **dict(zip(_names(cls, False), leaves)))


@dataclasses.dataclass(frozen=True)
class Rated(Rule):
    """A rule θ ↦ θ − ηd of one learning rate, d made of the gradient."""

    learning_rate: Any  # step size η (1/curvature)

    @property
    def flow_rate(self) -> Any:
        """Time of the gradient flow that a step covers under a constant gradient."""
        return self.learning_rate

    def update(self, theta: Theta, gradient: Float[Array, " p"]) -> Any:
        """Return θ − ηd for the direction d in place of the gradient, in the precision of θ."""
        return theta + -jnp.asarray(self.learning_rate, theta.dtype) * gradient.astype(theta.dtype)

    def step(self, objective, theta, memory, loss, gradient):
        """Return (θ − ηd, memory')."""
        direction, memory = self._direction(objective, theta, memory, gradient)
        return self.update(theta, direction), memory

    def _direction(self, objective, theta, memory, gradient) -> tuple[Any, Any]:
        """Return (d, memory')."""
        return gradient, memory


@dataclasses.dataclass(frozen=True)
class GradientDescent(Rated):
    """θ ↦ θ − η∇L(θ), which oscillates along an eigenvector of ∇²L once its eigenvalue λ exceeds 2/η."""

    @property
    def edge(self) -> Any:
        """2/η, the largest stable curvature: the multiplier 1 − ηλ then is −1 (arXiv 2209.15594, stable set)."""
        return 2 / self.learning_rate


@dataclasses.dataclass(frozen=True)
class HeavyBall(Rated):
    """m' = μm + ∇L, θ' = θ − ηm' (Polyak; PyTorch's and optax's momentum)."""

    momentum: Any  # μ, the fraction of the velocity that a step keeps

    @property
    def edge(self) -> Any:
        """(2 + 2μ)/η: z² − (1 + μ − ηS)z + μ then has the root −1 (arXiv 2103.00065)."""
        return (2 + 2 * self.momentum) / self.learning_rate

    @property
    def flow_rate(self) -> Any:
        """η/(1 − μ): under a constant gradient g the velocity settles at g/(1 − μ)."""
        return self.learning_rate / (1 - self.momentum)

    def init(self, theta):
        """Return m = 0, in the precision of θ."""
        return jnp.zeros(theta.shape, theta.dtype)

    def _direction(self, objective, theta, memory, gradient):
        return (_weighted(self.momentum, memory, 1, gradient),) * 2


@dataclasses.dataclass(frozen=True)
class Nesterov(HeavyBall):
    """m' = μm + ∇L, θ' = θ − η(∇L + μm'): the velocity that the next step will find, as in PyTorch and optax."""

    @property
    def edge(self) -> Any:
        """(2 + 2μ)/((1 + 2μ)η): z² − (1 + μ)(1 − ηS)z + μ(1 − ηS) then has the root −1 (arXiv 2103.00065)."""
        return (2 + 2 * self.momentum) / ((1 + 2 * self.momentum) * self.learning_rate)

    def _direction(self, objective, theta, memory, gradient):
        velocity = _weighted(self.momentum, memory, 1, gradient)
        return _weighted(self.momentum, velocity, 1, gradient), velocity


@dataclasses.dataclass(frozen=True)
class EMA(Rated):
    """m' = β₁m + (1 − β₁)∇L, θ' = θ − ηm': an exponential moving average, heavy ball with the step (1 − β₁)η."""

    momentum: Any  # β₁

    @property
    def edge(self) -> Any:
        """(2 + 2β₁)/((1 − β₁)η), that of heavy ball with its step (arXiv 2207.14484)."""
        return (2 + 2 * self.momentum) / ((1 - self.momentum) * self.learning_rate)

    init = HeavyBall.init

    def _direction(self, objective, theta, memory, gradient):
        return (_weighted(self.momentum, memory, 1 - self.momentum, gradient),) * 2


class _Preconditioned(Rated):
    def scale(self, memory):
        """Return P^(−1/2) (p,)."""
        return 1 / jnp.sqrt(self._preconditioner(memory))

    def _preconditioner(self, memory) -> Array:
        raise NotImplementedError

    def _damped(self, square):
        """Return √(square + root) + offset."""
        root, offset = (jnp.asarray(getattr(self, name), square.dtype) for name in ("root", "offset"))
        return jnp.sqrt(square + root) + offset


@dataclasses.dataclass(frozen=True)
class RMSProp(_Preconditioned):
    """v' = β₂v + (1 − β₂)∇L², P = √(v' + root) + offset, θ' = θ − ηP⁻¹∇L; v starts at 0 and is not corrected for it."""

    decay: Any = 0.99  # β₂
    offset: Any = 1e-7  # ε (gradient), added to the root
    root: Any = 0.0  # (gradient²), added under it

    @property
    def edge(self) -> Any:
        """2/η, for λ₁ of P^(−1/2)∇²L P^(−1/2): with P fixed it is gradient descent in P^(1/2)θ (arXiv 2207.14484)."""
        return GradientDescent(self.learning_rate).edge

    init = HeavyBall.init

    def _direction(self, objective, theta, memory, gradient):
        square = _weighted(self.decay, memory, 1 - self.decay, jnp.square(gradient.astype(theta.dtype)))
        return gradient.astype(theta.dtype) / self._preconditioner(square), square

    def _preconditioner(self, memory):
        return self._damped(memory)


class Moments(NamedTuple):
    """Adam's memory."""

    first: Float[Array, " p"]  # m, moving average of the gradient
    second: Float[Array, " p"]  # v, of its square
    steps: Int[Array, ""]  # taken so far


@dataclasses.dataclass(frozen=True)
class Adam(_Preconditioned):
    """m' = β₁m + (1 − β₁)∇L, v' = β₂v + (1 − β₂)∇L², θ' = θ − ηP⁻¹m'.

    Both corrections of the bias, at step t = 1, 2, …, are part of the preconditioner (arXiv 2207.14484):
    P = (1 − β₁ᵗ)(√(v'/(1 − β₂ᵗ) + root) + offset).
    """

    momentum: Any = 0.9  # β₁
    decay: Any = 0.99  # β₂
    offset: Any = 1e-7  # ε (gradient), added to the root
    root: Any = 0.0  # (gradient²), added under it

    @property
    def edge(self) -> Any:
        """(2 + 2β₁)/((1 − β₁)η), that of the average in P^(1/2)θ, for λ₁ of P^(−1/2)∇²L P^(−1/2) (arXiv 2207.14484)."""
        return EMA(self.learning_rate, self.momentum).edge

    def init(self, theta):
        """Return m = v = 0, in the precision of θ."""
        first, second = jnp.zeros((2, *theta.shape), theta.dtype)
        return Moments(first, second, jnp.zeros((), jnp.int32))

    def _direction(self, objective, theta, memory, gradient):
        gradient = gradient.astype(theta.dtype)
        memory = Moments(
            _weighted(self.momentum, memory.first, 1 - self.momentum, gradient),
            _weighted(self.decay, memory.second, 1 - self.decay, jnp.square(gradient)),
            memory.steps + 1,
        )
        return memory.first / self._preconditioner(memory), memory

    def _preconditioner(self, memory):
        t = jnp.maximum(memory.steps, 1).astype(memory.second.dtype)
        began, filled = (1 - jnp.asarray(b, memory.second.dtype) ** t for b in (self.momentum, self.decay))
        return began * self._damped(memory.second / filled)


@dataclasses.dataclass(frozen=True)
class SAM(Rated):
    """θ' = θ − η∇L(θ + ρ∇L/‖∇L‖), or θ − η∇L(θ + ρ∇L) if not normalized; two gradients a step."""

    radius: Any  # ρ, a length; if not normalized, a length/gradient
    normalized: bool = dataclasses.field(default=True, metadata={"static": True})

    @property
    def edge(self) -> Any:
        """S of ηS(1 + ρS) = 2 if not normalized; else None, see :meth:`edge_at`."""
        return None if self.normalized else self._edge(1)

    def edge_at(self, gradient_norm):
        """Return S of ηS(1 + ρS/‖∇L‖) = 2 (arXiv 2309.12488), which vanishes with the gradient."""
        return self._edge(gradient_norm) if self.normalized else self.edge

    def _edge(self, norm):
        # Written without the difference of two roots: for ρ = 0 exactly 2/η.
        return 4 / self.learning_rate / (1 + (1 + 8 * self.radius / (self.learning_rate * norm)) ** 0.5)

    def _direction(self, objective, theta, memory, gradient):
        norm = length(gradient) if self.normalized else 1
        ascent = jnp.asarray(self.radius, gradient.dtype) * gradient / jnp.where(norm == 0, 1, norm)
        return objective.gradient(theta + ascent.astype(theta.dtype)), memory


#: Every rule, for tests and tables.
RULES = (GradientDescent, HeavyBall, Nesterov, EMA, RMSProp, Adam, SAM)

_POSITIVE = (lambda value: 0 < value < np.inf, "be positive and finite")
_FRACTION = (lambda value: 0 <= value < 1, "lie in [0, 1)")
_SIZE = (lambda value: 0 <= value < np.inf, "be finite and not negative")
#: What a rate may be, and how that is put.
RANGES = {
    "learning_rate": _POSITIVE, "momentum": _FRACTION, "decay": _FRACTION, "offset": _SIZE, "root": _SIZE,
    "radius": _SIZE,
}  # fmt: skip


def _weighted(a, x, b, y):
    """Return ax + by in the precision of x."""
    return jnp.asarray(a, x.dtype) * x + jnp.asarray(b, x.dtype) * y.astype(x.dtype)


Kind = TypeVar("Kind", bound=Rule)


def resolve(rule: Rule | Any, kind: type[Kind] = Rule) -> Kind:
    """Return a rule, or gradient descent for a learning rate, its rates Python numbers or traced.

    A Python number takes the precision of what it multiplies, where one of NumPy's would change it.

    Raises:
        ValueError: if the rule is of another ``kind``, or a rate is no number in its range (traced values pass).
    """
    rule = rule if isinstance(rule, Rule) else GradientDescent(rule)
    if not isinstance(rule, kind):
        raise ValueError(f"rule must be of {kind.__name__} here, got {type(rule).__name__}")
    fields, known = {field.name for field in dataclasses.fields(rule)}, {}
    for name, (holds, words) in RANGES.items():
        if name not in fields or isinstance(value := getattr(rule, name), Tracer):
            continue
        number = isinstance(value, int | float | np.number | np.ndarray | jax.Array) and not np.ndim(value)
        if not number or not holds(value):
            raise ValueError(f"{name} must {words}, got {value!r}")
        known[name] = float(value)
    return dataclasses.replace(rule, **known)


def require_edge(rule: Rated | Any) -> Rated:
    """Return the resolved rule, which must bound the sharpness itself by one constant, as for constraints on it.

    Raises:
        ValueError: as :func:`resolve`; if the rule has a preconditioner, or its edge depends on the gradient.
    """
    rule = resolve(rule, Rated)
    name = type(rule).__name__
    if type(rule).scale is not Rule.scale:
        raise ValueError(f"{name} bounds the sharpness of a preconditioned Hessian, which has no stable set S <= edge")
    if rule.edge is None:
        raise ValueError(f"{name} has no constant edge: it depends on the norm of the gradient")
    return rule
