"""One loop that JAX lacks: a body that runs at least once and is compiled once.

>>> import jax.numpy as jnp
>>> halve = lambda x: (x, x / 2, x > 1)
>>> result, following = do_while(halve, jnp.array(4.0))
>>> float(result), float(following)
(1.0, 0.5)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def do_while(body: Callable[[Any], tuple[Any, Any, Any]], start: Any) -> tuple[Any, Any]:
    """Iterate ``body(carry) -> (result, carry, again)`` until ``again`` is false; return the last result and carry.

    Args:
        body: A traceable function; what it returns as carry has the structure, shapes and dtypes of ``start``.
        start: The first carry, any pytree.

    Raises:
        TypeError: if the body returns a carry of another dtype.
    """
    body = jax.jit(body)
    result, carry, _ = jax.eval_shape(body, start)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), result)
    for leaf, like in zip(jax.tree.leaves(start), jax.tree.leaves(carry), strict=True):
        if (dtype := getattr(leaf, "dtype", like.dtype)) != like.dtype:  # a Python number takes the body's
            raise TypeError(f"the body turns a carry of {dtype} into {like.dtype}")
    start = jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), start, carry)  # no weak types
    return jax.lax.while_loop(lambda s: s[2], lambda s: body(s[1]), (empty, start, jnp.ones((), bool)))[:2]
