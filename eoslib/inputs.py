"""What a user hands in, with words where it cannot be used: parameters, a loss, and its evaluation in micro-batches.

>>> print(precision({"w": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(())}))
float32
>>> Loss.of(lambda params, batch: 0.0, ("params",))
Traceback (most recent call last):
ValueError: loss_fn is called as loss_fn(params): missing a required argument: 'batch'
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

PAGE = "see 'Your own model' in the book's library reference"
ARRAY = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
STATE = {"BatchStat", "RngState", "Cache", "Intermediate"}  # flax's variables that are no parameters
STATEFUL = {"TraceContextError", "ModifyScopeVariableError", "InvalidRngError"}  # its errors where a layer needs them


def _flax(kind: type) -> set[str]:
    return {base.__name__ for base in kind.__mro__ if base.__module__.startswith("flax.")}


def _kind(leaf) -> str:
    return str(jnp.result_type(leaf)) if isinstance(leaf, ARRAY) else type(leaf).__name__


def is_float(leaf) -> bool:
    """Return whether a leaf is an array, or a number, of floating point."""
    return isinstance(leaf, ARRAY) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def precision(params, dtype=None) -> np.dtype:
    """Return ``dtype``, or that of ``params`` and at least float32; ValueError where a leaf is no parameter."""
    if "Module" in _flax(type(params)):
        how = (
            "graphdef, params, rest = nnx.split(model, nnx.Param, ...), merged in loss_fn (linen: variables['params'])"
        )
        raise ValueError(f"params must be arrays, got the module {type(params).__name__}: {how}; {PAGE}")
    found = jax.tree.leaves_with_path(params, is_leaf=lambda node: bool(_flax(type(node)) & STATE))
    named = [(jax.tree_util.keystr(path), leaf) for path, leaf in found]
    wrong = [f"params{p}: {_kind(leaf)}" for p, leaf in named if not is_float(leaf) or p.startswith("['batch_stats']")]
    if wrong or not named:
        how = "take nnx.split(model, nnx.Param, ...) or linen's variables['params'], and close over the rest"
        how = "complex ones as real and imaginary parts" if "complex" in str(wrong) else how
        got = ", ".join(wrong) or "nothing"
        raise ValueError(f"params must hold floating-point arrays only, got {got}; {how}; {PAGE}")
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.dtype(dtype or jnp.result_type(jnp.float32, *(leaf for _, leaf in named)))
    if dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    return dtype


def at_least(dtype, tree, *, exactly: bool = False):
    """Return a tree as arrays, its floats in ``dtype`` where that is more precise, or ``exactly`` in it."""

    def array(leaf):
        if not isinstance(leaf, ARRAY):
            raise ValueError(f"params and batch must hold arrays only, got {leaf!r}")
        if not is_float(leaf):
            return jnp.asarray(leaf)
        with jax.numpy_dtype_promotion("standard"):
            return jnp.asarray(leaf, dtype if exactly else jnp.promote_types(jnp.result_type(leaf), dtype))

    return jax.tree.map(array, tree)


def primitives(jaxpr) -> set[str]:
    """Return the names of all primitives of a jaxpr, and of those within their parameters."""
    within = jax.tree.leaves([eqn.params for eqn in jaxpr.eqns], is_leaf=lambda value: hasattr(value, "eqns"))
    names = {eqn.primitive.name for eqn in jaxpr.eqns}
    return names.union(*(primitives(value) for value in within if hasattr(value, "eqns")))


@dataclasses.dataclass(frozen=True)
class Loss:
    """A user's function, known by itself or, unhashable, by its identity: a scalar, or ValueError with words."""

    function: Callable = dataclasses.field(compare=False)
    key: Any
    has_aux: bool

    @classmethod
    def of(cls, function: Callable, arguments: tuple[str, ...], has_aux: bool = False) -> Loss:
        """Return the loss; ValueError where the function does not take these arguments."""
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError as error:
            raise ValueError(f"loss_fn is called as loss_fn({', '.join(arguments)}): {error}") from None
        except ValueError:  # some callables written in C have no signature
            pass
        try:
            hash(function)
        except TypeError:
            return cls(function, id(function), has_aux)
        return cls(function, function, has_aux)

    def __call__(self, params, *batch):
        """Return the loss at a pytree of parameters."""
        try:
            result = self.function(params, *batch)
        except Exception as error:
            if not _flax(type(error)) & STATEFUL:
                raise
            how = "BatchNorm takes use_running_average=True, dropout deterministic=True or a fixed key"
            raise ValueError(f"loss_fn must be a pure function of params and batch: {how}; {PAGE}: {error}") from error
        value, *aux = result if self.has_aux and isinstance(result, tuple) else (result,)
        if len(aux) != self.has_aux or not is_float(value) or jnp.shape(value):
            wanted = "(loss, aux), the loss a scalar" if self.has_aux else "a scalar"
            value = value if len(aux) == self.has_aux else result
            came = f"shape {jnp.shape(value)} of {_kind(value)}" if isinstance(value, ARRAY) else _kind(value)
            hint = "" if self.has_aux else "; a loss that returns (loss, aux) needs has_aux=True"
            raise ValueError(f"loss_fn must return {wanted} (a mean over samples), got {came}{hint}")
        return jnp.asarray(value)


def require_mean(loss: Callable, theta, batch, micro_batch: int) -> None:
    """Raise ValueError where ``loss(θ, batch)`` is no mean over samples, as far as a few of them show it.

    Few show it best: statistics of a large piece are almost those of its halves.  They are taken from all over the
    batch, for masks; and θ is moved at random as well, as a head that starts at zero hides what is normalized below it.
    """
    leaves = jax.tree.leaves(batch)
    if any(isinstance(leaf, Tracer) for leaf in (theta, *leaves)):
        return
    count = min(max(micro_batch, 2), 8)
    chosen = np.linspace(0, len(leaves[0]) - 1, count).astype(int)
    first, second = np.split(chosen, [count // 2])
    scale = jnp.sqrt(jnp.mean(theta**2))
    noise = jax.random.normal(jax.random.key(0), theta.shape, theta.dtype) * jnp.where(scale > 0, scale, 1)
    for at in (theta + 0.3 * noise, theta):
        try:
            values = [loss(at, jax.tree.map(lambda a, i=part: a[i], batch)) for part in (chosen, first, second)]
            whole, *halves = map(float, values)
        except Exception:  # traced after all, or for batches of one size alone: nothing to compare
            continue
        mean = (len(first) * halves[0] + len(second) * halves[1]) / count
        # A true mean differs by rounding: 4e-7 in float32, up to 6e-5 behind bfloat16 layers, eps if it is bfloat16.
        tolerance = max(2e-4, 2 * float(jnp.finfo(values[0].dtype).eps))
        if np.isfinite(whole) and not abs(whole - mean) <= tolerance * max(map(abs, (whole, *halves))):
            why = "BatchNorm in training mode, a sum, a mean over a mask and dropout are not"
            came = f"{count} samples give {whole:.6g}, the mean over their halves is {mean:.6g}"
            raise ValueError(f"micro_batch needs a loss that is a mean over samples: {came} ({why}; {PAGE})")
