"""Checks of a user's input, with worded errors: parameters, a loss, its micro-batches, arrays on devices.

>>> print(precision({"w": jnp.ones(3, jnp.bfloat16), "b": 1.0}))
float32
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
from jax.sharding import AxisType, NamedSharding, PartitionSpec

PAGE = "see 'Your own model' in the book's library reference"
ARRAY = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
#: Classes of flax that are not parameters, and its errors when a layer would change them or needs a key.
STATE = {"Module", "BatchStat", "RngState", "Cache", "Intermediate"}
STATEFUL = {"TraceContextError", "ModifyScopeVariableError", "InvalidRngError"}


def _flax(thing) -> set[str]:
    return {base.__name__ for base in type(thing).__mro__ if base.__module__.startswith("flax.")}


def _kind(leaf) -> str:
    return str(jax.typeof(leaf)) if isinstance(leaf, ARRAY) else type(leaf).__name__


def _is_float(leaf) -> bool:
    return isinstance(leaf, ARRAY) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _explicit(leaf) -> NamedSharding | None:
    """Return replication over the leaf's mesh, where its axes are explicit."""
    mesh = jax.typeof(leaf).sharding.mesh
    return NamedSharding(mesh, PartitionSpec()) if AxisType.Explicit in mesh.axis_types else None


def precision(params, dtype=None) -> np.dtype:
    """Return ``dtype``, or that of ``params``, at least float32; ValueError if a leaf is not a parameter."""
    found = jax.tree.leaves_with_path(params, is_leaf=lambda node: bool(_flax(node) & STATE))
    named = [(f"params{jax.tree_util.keystr(path)}", leaf) for path, leaf in found]
    bad = [(p, leaf) for p, leaf in named if not _is_float(leaf) or p.startswith("params['batch_stats']")]
    if bad or not named:
        got = ", ".join(f"{p}: {_kind(leaf)}" for p, leaf in bad) or "nothing"
        how = "take graphdef, params, rest = nnx.split(model, nnx.Param, ...) or linen's variables['params']"
        rest = "close over the rest, split complex numbers in real and imaginary parts"
        raise ValueError(f"params must hold floating-point arrays only, got {got}; {how}, {rest}; {PAGE}")
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.dtype(dtype or jnp.result_type(jnp.float32, *(leaf for _, leaf in named)))
    if dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    require_available(dtype)
    return dtype


def require_available(dtype) -> None:
    """Raise ValueError if JAX, in its present mode, would give another precision instead."""
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError("dtype float64 needs jax.config.update('jax_enable_x64', True): without it JAX has none")


def at_least(dtype, tree, *, exactly: bool = False):
    """Return a tree as arrays, its floats in ``dtype`` where that is more precise, or ``exactly`` in it."""

    def array(leaf):
        if not isinstance(leaf, ARRAY):
            raise ValueError(f"params and batch must hold arrays only, got {leaf!r}")
        with jax.numpy_dtype_promotion("standard"):
            to = jnp.promote_types(jnp.result_type(leaf), dtype) if _is_float(leaf) and not exactly else dtype
        return jnp.asarray(leaf, to if _is_float(leaf) else None)

    return jax.tree.map(array, tree)


def primitives(jaxpr) -> set[str]:
    """Return the names of all primitives of a jaxpr, and of those within their parameters."""
    within = jax.tree.leaves([eqn.params for eqn in jaxpr.eqns], is_leaf=lambda value: hasattr(value, "eqns"))
    names = {eqn.primitive.name for eqn in jaxpr.eqns}
    return names.union(*(primitives(value) for value in within if hasattr(value, "eqns")))


@dataclasses.dataclass(frozen=True)
class Loss:
    """A user's loss, compared by the function or, if unhashable, its identity; a scalar, or a worded ValueError."""

    function: Callable = dataclasses.field(compare=False)
    key: Any
    has_aux: bool

    @classmethod
    def of(cls, function: Callable, *arguments: str, has_aux: bool) -> Loss:
        """Return the loss; ValueError if the function does not take these arguments."""
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
            wanted = "be a pure function of params and batch"
            how = "BatchNorm takes use_running_average=True, dropout deterministic=True or a fixed key"
            if not _flax(error) & STATEFUL:
                if not any(map(_explicit, jax.tree.leaves(batch))):
                    raise
                wanted = "suit a batch over explicit mesh axes"
                how = "axes of AxisType.Auto suit any, and what is not jitted needs jax.set_mesh"
            raise ValueError(f"loss_fn must {wanted}: {how}; {PAGE}: {error}") from error
        value, *aux = result if self.has_aux and isinstance(result, tuple) else (result,)
        if len(aux) != self.has_aux or not _is_float(value) or jnp.shape(value):
            came = _kind(value if len(aux) == self.has_aux else result)
            wanted = "a scalar (a mean over samples), or with has_aux=True (loss, aux)"
            raise ValueError(f"loss_fn must return {wanted}, got {came}, has_aux={self.has_aux}")
        return jnp.asarray(value)


def shards(batch) -> int:
    """Return over how many devices the leading axis is spread; 1 in traced code, unless its mesh axes are explicit."""

    def pieces(leaf):
        sharding = jax.typeof(leaf).sharding if isinstance(leaf, Tracer) else leaf.sharding
        return leaf.shape[0] // sharding.shard_shape(leaf.shape)[0]

    return max(map(pieces, jax.tree.leaves(batch)), default=1)


def beside(batch, tree):
    """Return ``tree`` with arrays of one device put where the batch is: on its device, or replicated over its mesh.

    Arrays on several devices stay in place, and so does everything in traced code or if the batch is not committed.
    """
    found = [leaf for leaf in jax.tree.leaves(batch) if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)]
    placed = [leaf.sharding for leaf in found if leaf.committed]
    if not placed:
        return tree
    there = max(placed, key=lambda sharding: len(sharding.device_set))
    target = NamedSharding(there.mesh, PartitionSpec()) if isinstance(there, NamedSharding) else there

    def put(leaf):
        if isinstance(leaf, Tracer) or not isinstance(leaf, ARRAY):
            return leaf
        here = leaf.sharding.device_set if isinstance(leaf, jax.Array) else set()
        return leaf if len(here) > 1 or here == there.device_set else jax.device_put(leaf, target)

    return jax.tree.map(put, tree)


def require_mean(loss: Callable, theta, batch, micro_batch: int) -> None:
    """Raise ValueError if ``loss(θ, batch)`` is not a mean over samples, as far as a few of them show it.

    Few samples show it best, because statistics of a large piece are almost those of its halves.  They come from the
    whole batch, because of masks.  θ is also moved at random: a head that starts at zero hides normalization below it.
    """
    leaves = jax.tree.leaves((batch, theta))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return
    chosen = np.linspace(0, len(leaves[0]) - 1, min(max(micro_batch, 2), 8)).astype(int)
    parts = chosen, *np.array_split(chosen, 2)
    scale = jnp.sqrt(jnp.mean(theta**2))
    noise = jax.random.normal(jax.random.key(0), theta.shape, theta.dtype) * jnp.where(scale > 0, scale, 1)
    for at in (theta + 0.3 * noise, theta):
        try:
            pieces = [jax.tree.map(lambda a, i=i: a.at[i].get(out_sharding=_explicit(a)), batch) for i in parts]
            values = [loss(at, piece) for piece in pieces]
            whole, *halves = map(float, values)
        except Exception:  # traced after all, or for batches of one size alone: nothing to compare
            continue
        mean = np.average(halves, weights=[len(part) for part in parts[1:]])
        # A true mean differs by rounding: 4e-7 in float32, up to 6e-5 behind bfloat16 layers, eps if it is bfloat16.
        tolerance = max(2e-4, 2 * float(jnp.finfo(values[0].dtype).eps))
        if np.isfinite(whole) and not abs(whole - mean) <= tolerance * max(map(abs, (whole, *halves))):
            why = "BatchNorm in training mode, a sum, a mean over a mask and dropout are not"
            came = f"{len(chosen)} samples give {whole:.6g}, the mean over their halves is {mean:.6g}"
            raise ValueError(f"micro_batch needs a loss that is a mean over samples: {came} ({why}; {PAGE})")
