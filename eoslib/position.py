"""A position θ to twice the precision of its derivatives: the unevaluated sum of two vectors.

Gradient descent's steps soon fall far below the resolution of a float32 θ, while a loss is evaluated at the rounded θ
anyway.  A sum ``high + low`` keeps the steps without 64-bit arithmetic, for which a user's loss was not written.

>>> import jax.numpy as jnp
>>> start = Position.of(jnp.ones(1))
>>> there = start
>>> for _ in range(100):
...     there = there + jnp.array([1e-9])
>>> print(there - start, there.high)
[1.e-07] [1.0000001]
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Position:
    """θ = high + low: ``position + vector`` moves it, ``position − position`` is the displacement, a vector (p,).

    ``np.asarray(position)`` is θ in float64.
    """

    high: Any  # (p,), θ rounded to the precision of the derivatives; as in any pytree, JAX may put shapes here
    low: Any  # (p,), what rounding lost

    __array_ufunc__ = None  # NumPy's arrays leave the arithmetic to this class

    @classmethod
    def of(cls, theta: Any, dtype: Any = None) -> Any:
        """Return θ, vector or position, with room for steps below its resolution; a float64 θ for ``dtype`` float64."""
        if isinstance(theta, Position):
            return theta
        theta = theta if isinstance(theta, jax.Array) else np.asarray(theta)
        if (dtype := jnp.dtype(dtype or theta.dtype)) in (jnp.float64, theta.dtype):
            theta = jnp.asarray(theta, dtype)
            return theta if dtype == jnp.float64 else cls(theta, jnp.zeros_like(theta))
        if not isinstance(theta, Tracer):
            theta = np.asarray(theta)  # which keeps 64 bits where JAX, in its default mode, would not
        high = theta.astype(dtype)
        return cls(jnp.asarray(high), jnp.asarray((theta - high.astype(theta.dtype)).astype(dtype)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (p,)."""
        return self.high.shape

    @property
    def dtype(self) -> Any:
        """Precision of each of the two vectors, and of moves and displacements."""
        return self.high.dtype

    def astype(self, dtype: Any) -> Float[Array, " p"]:
        """Return θ rounded to one vector."""
        return self.high.astype(dtype) + self.low.astype(dtype)

    def __add__(self, move: ArrayLike) -> Position:
        """Return θ + move; the error of the sum of two such positions is of the order of eps² |θ|."""
        high, error = _two_sum(self.high, jnp.asarray(move, self.dtype))
        return Position(*_two_sum(high, error + self.low))

    __radd__ = __add__

    def __sub__(self, other: Position | ArrayLike) -> Float[Array, " p"]:
        """Return the displacement from another position."""
        origin: Any = Position.of(other, self.dtype)
        return (self.high - origin.high) + (self.low - origin.low)

    def __rsub__(self, other: ArrayLike) -> Float[Array, " p"]:
        """Return the displacement of a plain vector from this position."""
        return -(self - other)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """Return θ as a NumPy array, float64 by default."""
        return (np.asarray(self.high, np.float64) + np.asarray(self.low, np.float64)).astype(dtype or np.float64)


#: Type of θ in arguments and states: a vector, or a position.
Theta = Position | Float[Array, " p"]


def _two_sum(a, b):
    """Return the rounded sum of a and b, and its exact error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)
