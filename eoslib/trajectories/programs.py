"""Programs that share memory with their compiler: compile first, release its heap, then allocate."""

import contextlib
import ctypes
import functools

import jax


def run(function, *arguments, **static):
    """Compile a jitted function ahead of time, release the compiler's heap (more than the program needs), and call."""
    leaves, structure = jax.tree.flatten(arguments)
    committed = any(getattr(leaf, "committed", False) for leaf in leaves)

    def abstract(leaf):
        kind, where = jax.typeof(leaf), getattr(leaf, "sharding", None)
        where = None if committed and not getattr(leaf, "committed", True) else where  # it moves to the committed ones
        return jax.ShapeDtypeStruct(kind.shape, kind.dtype, sharding=where, weak_type=kind.weak_type)

    return _compiled(function, structure, tuple(map(abstract, leaves)), tuple(static.items()))(*arguments)


@functools.lru_cache(maxsize=32)
def _compiled(function, structure, leaves, static):
    release_heap()
    program = function.lower(*jax.tree.unflatten(structure, leaves), **dict(static)).compile()
    release_heap()
    return program


def release_heap() -> None:
    """Return free memory to the system."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # where the C library is not glibc
        ctypes.CDLL(None).malloc_trim(0)
