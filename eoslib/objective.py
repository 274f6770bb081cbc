"""The loss as a function of one flat parameter vector, and its derivatives up to the cubic term along a direction.

>>> import jax.numpy as jnp
>>> objective = Objective.create(lambda p: jnp.sum(p["a"] ** 3) / 6, {"a": jnp.array([1.0, 2.0])})
>>> print(objective.hvp(jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])))
[1. 0.]

Costs are counted in gradients (one forward and one reverse pass over the batch): a Hessian-vector product is one jvp of
the gradient, and the cubic expansion along u, (∇L, ∇²L u, ∇³L[u, u]), is one nested jvp.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import register_dataclass
from jaxtyping import Array, Float

from eoslib import inputs
from eoslib.position import Position, Theta


def inner(a: Float[Array, "... p"], b: Float[Array, "... p"]) -> Float[Array, ...]:
    """Return a·b over the last axis as a sum of products: matrix products of long float32 rows lose 7e-4 on CPUs."""
    return jnp.sum(jnp.multiply(*jnp.broadcast_arrays(a, b)), axis=-1)


def length(a: Float[Array, "*batch p"]) -> Float[Array, "*batch"]:
    """Return ‖a‖ over the last axis, where the squares alone would overflow or underflow too."""
    scale = jnp.max(jnp.abs(a), axis=-1, keepdims=True)
    scale = jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1)
    return scale[..., 0] * jnp.sqrt(jnp.sum((a / scale) ** 2, axis=-1))


class Cubic(NamedTuple):
    """Cubic Taylor expansion of the loss along one direction u."""

    loss: Float[Array, ""]  # L
    gradient: Float[Array, " p"]  # ∇L
    hvp: Float[Array, " p"]  # ∇²L u
    third: Float[Array, " p"]  # ∇³L[u, u]


@partial(
    register_dataclass,
    data_fields=["batch"],
    meta_fields=["loss_fn", "unravel", "size", "dtype", "micro_batch", "dtypes", "reverse", "shards", "precise"],
)
@dataclasses.dataclass(frozen=True)
class Objective:
    """θ ↦ L(θ) for a flat vector θ of length p, with derivatives; build it with :meth:`create`.

    θ may be more precise (float64, a :class:`~eoslib.position.Position`) than ``dtype``, in which derivatives are
    evaluated and every result is returned.  The object is a JAX pytree whose only traced content is the batch, so pass
    it as an argument to jitted functions.
    """

    batch: Any  # pytree of arrays whose common leading axis counts samples, or None
    loss_fn: Callable  # ``loss_fn(params, batch) -> scalar``, a mean over samples (``loss_fn(params)`` without a batch)
    unravel: Callable  # flat vector of length p in ``dtype`` ↦ pytree of parameters
    size: int  # number of parameters p
    dtype: Any  # precision of all derivatives
    micro_batch: int | None = None  # samples evaluated at once: the same mean of a larger batch, in less memory
    dtypes: tuple = ()  # dtypes of the parameters' leaves, as they were given
    reverse: bool = False  # whether the loss refuses forward mode (custom_vjp): two vjps then replace a jvp
    shards: int = 1  # devices over which the samples are spread; each evaluates its part of a micro-batch
    precise: tuple = ()  # a higher precision for L and ∇L, and the ``unravel`` of a vector in it; empty: as all else

    @classmethod
    def create(
        cls, loss_fn: Callable, params, batch=None,
        *, micro_batch: int | None = None, dtype=None, gradient_dtype=None, has_aux: bool = False,
    ) -> Objective:  # fmt: skip
        """Build an objective from a loss on a pytree ``params`` of floating-point arrays.

        Only the shapes, structure and dtypes of ``params`` matter.  ``dtype`` is theirs by default, float32 at least,
        and the loss receives the parameters, and batch floats of lower precision, in it.  In ``gradient_dtype``,
        the published choice is float64, L and ∇L alone are evaluated, by a pass of their own, and then rounded to
        ``dtype``.  ``has_aux`` is for a loss that returns (loss, aux); the other arguments are the fields above.

        Raises:
            ValueError: if the loss cannot be called this way, returns no scalar, has no second derivative, or, with
                ``micro_batch``, is not a mean over samples; if ``params`` has no leaf, or one that is not a
                floating-point array; if the leading axes of the batch disagree, or ``micro_batch`` is out of range;
                if ``gradient_dtype`` is the lower precision, or one that JAX, without ``jax_enable_x64``, has not.
        """
        exactly, dtype = dtype is not None, inputs.precision(params, dtype)
        loss_fn = inputs.Loss.of(loss_fn, *("params", "batch")[: 1 + (batch is not None)], has_aux=has_aux)
        theta, unravel = ravel_pytree(inputs.at_least(dtype, inputs.beside(batch, params), exactly=True))
        if batch is not None:
            batch = inputs.at_least(dtype, batch, exactly=exactly)
            sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(batch)}
            if len(sizes) != 1 or 0 in sizes:
                got = f"got {sorted(sizes)} (close over what is not one entry a sample, as a key)"
                raise ValueError(f"all arrays of the batch must share one non-empty leading axis, {got}")
            if micro_batch is not None and not 1 <= micro_batch <= max(sizes):
                raise ValueError(f"micro_batch must lie in 1..{max(sizes)}, got {micro_batch!r}")
            micro_batch = None if micro_batch == max(sizes) else micro_batch
        elif micro_batch is not None:
            raise ValueError(f"micro_batch={micro_batch!r} needs a batch, got None")
        dtypes = tuple(map(jnp.result_type, jax.tree.leaves(params)))
        shards = inputs.shards(batch)
        objective = cls(batch, loss_fn, unravel, theta.size, dtype, micro_batch, dtypes, shards=shards)
        _loss.eval_shape(objective, theta)  # whatever the loss itself raises
        if micro_batch is not None:
            inputs.require_mean(partial(_piece, objective), theta, batch, micro_batch)
        failure = None
        for reverse in (False, True):
            objective = dataclasses.replace(objective, reverse=reverse)
            try:  # a custom_vjp in forward mode is traced without complaint, into a primitive that cannot be evaluated
                if "custom_lin" not in inputs.primitives(_hvp.trace(objective, theta, theta).jaxpr):
                    return objective._with(gradient_dtype, params)
            except Exception as error:
                failure = failure or error
        raise ValueError(f"loss_fn must be twice differentiable, in forward or reverse mode: {failure}") from failure

    def _with(self, gradient_dtype, params) -> Objective:
        """Return the objective with its first derivatives in another precision."""
        if gradient_dtype is None or (precision := inputs.precision(params, gradient_dtype)) == self.dtype:
            return self
        if precision != jnp.float64:
            raise ValueError(f"gradient_dtype must not be lower than dtype {self.dtype}, got {precision}")
        unravel = ravel_pytree(inputs.at_least(precision, self.place(params), exactly=True))[1]
        return dataclasses.replace(self, precise=(precision, unravel))

    def _double(self) -> Objective:
        """Return the objective in the precision of its first derivatives."""
        dtype, unravel = self.precise
        inputs.require_available(dtype)
        batch = inputs.at_least(dtype, self.batch)
        return dataclasses.replace(self, batch=batch, dtype=dtype, unravel=unravel, precise=())

    def ravel(self, params) -> Float[Array, " p"]:
        """Return a pytree of parameters as a flat vector, in the order of :attr:`unravel`."""
        return ravel_pytree(inputs.at_least(self.dtype, self.place(params)))[0]

    def place(self, tree):
        """Return a pytree of arrays where the batch is, replicated over its devices; in traced code they stay."""
        return inputs.beside(self.batch, tree)

    def like_params(self, vector: Float[Array, " p"]):
        """Return a flat vector as a pytree like the parameters, in the dtypes in which they were given."""
        leaves, structure = jax.tree.flatten(self.unravel(vector.astype(self.dtype)))
        return structure.unflatten(leaf.astype(dtype) for leaf, dtype in zip(leaves, self.dtypes, strict=True))

    def position(self, theta) -> Theta:
        """Return θ (p,), any array or position, without added precision: a Position if it exceeds that of ``dtype``.

        Raises:
            ValueError: if θ is not floating point or has the wrong shape.
        """
        theta = theta if isinstance(theta, Position | jax.Array) else np.asarray(theta)
        if not jnp.issubdtype(theta.dtype, jnp.floating):
            raise ValueError(f"theta must be floating point, got {theta.dtype}")
        if theta.shape != (self.size,):
            raise ValueError(f"theta must have shape ({self.size},), got {theta.shape}")
        if isinstance(theta, Position) or np.promote_types(theta.dtype, self.dtype) != self.dtype:
            return self.place(Position.of(theta, self.dtype))
        return self.place(jnp.asarray(theta, self.dtype))

    def _evaluate(self, expansion: Callable, theta, *directions):
        """Return the mean over the batch of ``expansion(loss, θ, *directions)``, an operator linear in the loss."""
        if theta.shape != (self.size,):
            raise ValueError(f"theta must have shape ({self.size},), got {theta.shape}")
        arguments = [vector.astype(self.dtype) for vector in self.place((theta, *directions))]

        def on(*piece):
            return expansion(lambda t: self.loss_fn(self.unravel(t), *piece).astype(self.dtype), *arguments)

        if self.micro_batch is None:
            return on() if self.batch is None else on(self.batch)
        # A piece has equally many samples from every device, so that all of them work and no sample moves.
        n = jax.tree.leaves(self.batch)[0].shape[0]
        d = math.gcd(n, self.shards)  # another batch may have replaced the first
        n, m = n // d, max(1, self.micro_batch // d)  # per device
        full, rest = n // m, n % m

        def cut(a, first, pieces, size):
            a, shape = a.reshape(d, n, *a.shape[1:])[:, first : first + pieces * size], a.shape[1:]
            return a.reshape(d, pieces, size, *shape).swapaxes(0, 1).reshape(pieces, d * size, *shape)

        pieces = jax.tree.map(lambda a: cut(a, 0, full, m), self.batch)

        def add(total, piece, weight=m / n):
            return jax.tree.map(lambda a, b: a + b * weight, total, on(piece)), None

        shapes = jax.eval_shape(on, jax.tree.map(lambda a: a[0], pieces))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype, device=s.sharding), shapes)
        total, _ = jax.lax.scan(add, zeros, pieces)
        if not rest:
            return total
        return add(total, jax.tree.map(lambda a: cut(a, full * m, 1, rest)[0], self.batch), rest / n)[0]

    def loss(self, theta: Theta) -> Float[Array, ""]:
        """Return L(θ)."""
        if self.precise:
            return self._double().loss(theta).astype(self.dtype)
        return self._evaluate(lambda f, t: f(t), theta)

    def value_and_grad(self, theta: Theta) -> tuple[Float[Array, ""], Float[Array, " p"]]:
        """Return (L, ∇L); one gradient."""
        if self.precise:
            return jax.tree.map(lambda a: a.astype(self.dtype), self._double().value_and_grad(theta))
        return self._evaluate(lambda f, t: jax.value_and_grad(f)(t), theta)

    def _first(self, theta: Theta, loss, gradient):
        """Return (L, ∇L), those found in passing unless they are to be evaluated in a higher precision."""
        return self.value_and_grad(theta) if self.precise else (loss, gradient)

    def gradient(self, theta: Theta) -> Float[Array, " p"]:
        """Return ∇L; one gradient."""
        return self.value_and_grad(theta)[1]

    def hvp(self, theta: Theta, v: Float[Array, " p"]) -> Float[Array, " p"]:
        """Return ∇²L(θ) v; about one and a half gradients."""
        return self._evaluate(lambda f, t, d: self._along(jax.grad(f), t, d)[1], theta, v)

    def hvps(self, theta: Theta, vs: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Return ∇²L(θ) V for k directions in one pass."""
        return self._evaluate(self._products, theta, vs)

    def gradient_and_hvp(self, theta: Theta, v: Float[Array, " p"]):
        """Return (L, ∇L, ∇²L v) in one pass; about two gradients."""
        first, (_, hvp) = self._evaluate(lambda f, t, d: self._along(jax.value_and_grad(f), t, d), theta, v)
        return *self._first(theta, *first), hvp

    def gradient_and_hvps(self, theta: Theta, vs: Float[Array, "k p"]):
        """Return (L, ∇L, ∇²L V) for k directions in one pass; about one gradient and one each."""

        def expansion(f, t, *ds):
            expansions = [self._along(jax.value_and_grad(f), t, d) for d in ds]
            return *expansions[0][0], jnp.stack([hvp for _, (_, hvp) in expansions])

        loss, gradient, hvps = self._evaluate(expansion, theta, *vs)
        return *self._first(theta, loss, gradient), hvps

    def thirds(self, theta: Theta, us: Float[Array, "k p"]) -> Float[Array, "n p"]:
        """Return ∇³L[u_i, u_j] for the n = k(k+1)/2 pairs i ≤ j, row by row; 3.5 gradients at k = 1, 9 to 12 at 4.

        The pairs are written out one by one, so that the compiler evaluates their k common first tangents only once.
        """

        def expansion(f, t, *ds):
            pairs = zip(*np.triu_indices(len(ds)), strict=True)
            first = [lambda s, d=d: self._along(jax.grad(f), s, d)[1] for d in ds]
            return jnp.stack([self._along(first[i], t, ds[j])[1] for i, j in pairs])

        return self._evaluate(expansion, theta, *us)

    def cubic(self, theta: Theta, u: Float[Array, " p"]) -> Cubic:
        """Return (L, ∇L, ∇²L u, ∇³L[u, u]) by one nested jvp along u; about two and a half gradients."""
        loss, gradient, *rest = self._evaluate(self._cubic, theta, u)
        return Cubic(*self._first(theta, loss, gradient), *rest)

    def cubic_and_hvps(self, theta, u, vs: Float[Array, "k p"]) -> tuple[Cubic, Float[Array, "k p"]]:
        """Return :meth:`cubic` along u and ∇²L V for k further directions in one pass; about one gradient each."""
        both = self._evaluate(lambda f, t, d, e: (self._cubic(f, t, d), self._products(f, t, e)), theta, u, vs)
        (loss, gradient, *rest), products = both
        return Cubic(*self._first(theta, loss, gradient), *rest), products

    def directional(self, theta: Theta, w: Float[Array, " p"], order: int) -> Float[Array, " p"]:
        """Return ∇^order L(θ)[w, …, w, ·], the tensor of that order (≥ 1) applied to all but one argument."""
        if order == 1:
            return self.gradient(theta)
        return self._evaluate(lambda f, t, d: self._derivative(jax.grad(f), t, d, order - 1), theta, w)

    def _along(self, f, theta, d):
        """Return the value and the derivative along d of f at θ."""
        if not self.reverse:
            return jax.jvp(f, (theta,), (d,))
        value, pullback = jax.vjp(f, theta)
        pushforward = jax.vjp(lambda c: pullback(c)[0], jax.tree.map(jnp.zeros_like, value))[1]
        return value, pushforward(d)[0]

    def _products(self, f, theta, ds):
        return jax.vmap(lambda d: self._along(jax.grad(f), theta, d)[1])(ds)

    def _derivative(self, f, theta, d, order: int):
        """Return the order-th derivative of f at θ along d."""
        return self._along(lambda t: self._derivative(f, t, d, order - 1), theta, d)[1] if order else f(theta)

    def _cubic(self, f, theta, u) -> Cubic:
        expansion = self._along(lambda t: self._along(jax.value_and_grad(f), t, u), theta, u)
        ((value, gradient), (_, hvp)), (_, (_, third)) = expansion
        return Cubic(value, gradient, hvp, third)


# What `create` examines, traced once for equal objectives.
_loss, _hvp = jax.jit(Objective.loss), jax.jit(Objective.hvp)
_piece = jax.jit(lambda objective, theta, piece: objective.loss_fn(objective.unravel(theta), piece))
