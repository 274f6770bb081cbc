"""The sharpness of any loss on a pytree of parameters: the one function that most users want.

>>> import jax.numpy as jnp
>>> quartic = lambda p: p["w"][0] ** 4 / 12 - p["w"][1] ** 2
>>> print(jax.grad(lambda p: sharpness(quartic, p).value)({"w": jnp.array([3.0, 1.0])})["w"])  # S = w₀²
[6. 0.]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Int

from eoslib.eigen import EigenStatus, leading_eigenpair, random_direction, resolve_tolerance
from eoslib.objective import Objective, inner, length


class Sharpness(NamedTuple):
    """Largest Hessian eigenvalue of a loss on a pytree of parameters."""

    value: Float[Array, ""]  # λ_max, a curvature
    eigenvector: Any  # pytree like the parameters, unit length
    error_bound: Float[Array, ""]  # some Hessian eigenvalue lies within this distance of value
    products: Int[Array, ""]  # Hessian-vector products used
    status: Int[Array, ""]  # an EigenStatus

    @property
    def message(self) -> Any:
        """How the solve ended, in words; outside of traced code only."""
        return EigenStatus.words(self.status)


def _refuse(*_, **__) -> NoReturn:
    raise NotImplementedError(
        "the derivative of the sharpness's eigenvector (and error bound) is not implemented, and so are second "
        "derivatives of the sharpness, which need it; the first derivative of its value is"
    )


# x ↦ an array of its shape and dtype filled with a number, whose derivatives, forward and reverse, are refused.
_refusing = Primitive("eigenvector_derivative")
_refusing.def_impl(lambda x, fill: np.full(x.shape, fill, x.dtype))  # jax_debug_nans: no array of JAX may hold NaN
_refusing.def_abstract_eval(lambda x, fill: x)
mlir.register_lowering(_refusing, mlir.lower_fun(lambda x, fill: jnp.full_like(x, fill), multiple_results=False))
batching.defvectorized(_refusing)
ad.primitive_jvps[_refusing] = ad.primitive_transposes[_refusing] = _refuse


@jax.custom_jvp
def _held(u, image):
    """Return u as a constant for first derivatives; differentiating those again, along the image, is refused."""
    return u


@_held.defjvp
def _(primals, tangents):
    return primals[0], _refusing.bind(primals[1], fill=0.0) * jnp.sum(tangents[1])


@jax.custom_jvp
def _opaque(tree, value):
    """Return the tree; a derivative that reaches it is refused in reverse mode and NaN in forward mode."""
    return tree


@_opaque.defjvp
def _(primals, tangents):
    def unknown(leaf):
        return _refusing.bind(jnp.broadcast_to(tangents[1], leaf.shape).astype(leaf.dtype), fill=np.nan)

    return primals[0], jax.tree.map(unknown, primals[0])


@jax.jit(static_argnames=("tolerance", "max_products"))
def _solve(objective: Objective, theta, start, tolerance, max_products):
    fixed, at, start = jax.lax.stop_gradient((objective, theta, start))

    def matvec(v):
        return jax.lax.stop_gradient(fixed.hvp(at, v))  # nor along what the loss closes over

    pairs = leading_eigenpair(matvec, start, tolerance=tolerance, max_products=max_products)
    u = pairs.vectors[0]
    image = objective.hvp(theta, u)  # computed again: the solver's own images drift by the rounding of its updates
    value = inner(_held(u, image), image)  # its derivative, u held fixed, is ∇³L[u, u]: Hellmann and Feynman
    error = length(jax.lax.stop_gradient(image - value * u))
    stalled = (pairs.status == EigenStatus.CONVERGED) & (error > 2 * tolerance * jnp.abs(value))
    status = jnp.where(stalled, EigenStatus.STALLED, pairs.status)
    status = jnp.where(jnp.isfinite(error), status, EigenStatus.NOT_FINITE).astype(jnp.int32)
    return value, u, error, pairs.products + 1, status


def sharpness(
    loss_fn: Callable, params, batch=None,
    *, micro_batch: int | None = None, tolerance: float | None = None, max_products: int = 1000, start=None,
    seed: int = 0, has_aux: bool = False,
) -> Sharpness:  # fmt: skip
    """Compute S(θ) = λ_max(∇²L(θ)) of any loss on a pytree of parameters, with a status that says if it converged.

    It works inside ``jit``, ``vmap`` and ``scan``.  The derivative of ``value``, in parameters and batch, is that of a
    simple eigenvalue, ∇³L[u, u], and costs about three gradients.  The derivative of the eigenvector is not
    implemented: reverse mode raises an error that says so, and forward mode gives NaN.

    Args:
        loss_fn: ``loss_fn(params, batch) -> scalar``, a mean over samples (``loss_fn(params)`` without a batch).
        params: Pytree of floating-point arrays.
        batch: Pytree of arrays with a common leading axis: the whole data set, or the sharpness is that of a part.
        micro_batch: Samples evaluated at once, where the whole batch does not fit in memory; the result is the same.
        tolerance: Residual ‖∇²L u − S u‖ accepted, relative to |S|; the relative error of S is about its square.  By
            default 3e-4, or the least that the dtype resolves.
        max_products: Limit on Hessian-vector products.
        start: Pytree like ``params``, e.g. the last eigenvector; random (from ``seed``) by default, or if it is zero.
        seed: Seed of the random start.
        has_aux: Whether ``loss_fn`` returns (loss, aux).

    Raises:
        ValueError: on parameters that are not floating point, an inconsistent batch, a start of another size, or a
            tolerance that the dtype cannot resolve.
        NotImplementedError: on a second derivative, or a derivative of the eigenvector in reverse mode.

    Example:
        >>> import jax.numpy as jnp
        >>> result = sharpness(lambda p: 3 * p["w"][0] ** 2 - p["w"][1] ** 2, {"w": jnp.ones(2)})
        >>> print(result.value, result.message)
        6.0 converged: every residual is within its tolerance
    """
    objective = Objective.create(loss_fn, params, batch, micro_batch=micro_batch, has_aux=has_aux)
    tolerance = resolve_tolerance(tolerance, objective.dtype)
    vector = random_direction(objective.size, objective.dtype, seed) if start is None else objective.ravel(start)
    if vector.size != objective.size:
        raise ValueError(f"start must hold {objective.size} numbers, as params does, got {vector.size}")
    theta, vector = objective.ravel(params), objective.place(vector.astype(objective.dtype))
    value, u, error, products, status = _solve(objective, theta, vector, tolerance, max_products)
    u, error = _opaque((objective.like_params(u), error), value)
    return Sharpness(value, u, error, products, status)
