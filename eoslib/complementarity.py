"""The multiplier of several constraints at once: a semidefinite complementarity problem of a few rows.

Find W ⪰ 0 with S = B + 𝒢W ⪰ 0 and ⟨W, S⟩ = 0: the least bend W that keeps the predicted slack S of k eigenvalues
positive semidefinite, where B is the slack without a bend and 𝒢 the Gram matrix of the constraints' gradients.

>>> found = solve(jnp.eye(3), jnp.diag(jnp.array([-2.0, 1.0])))
>>> print(found.value.round(3), found.message)
[[2. 0.]
 [0. 0.]] the multiplier is known to rounding

Symmetric Z (k×k) are stored as svec(Z), n = k(k+1)/2 numbers whose dot product is the trace product.

Method: Newton on W = Π(W − S), with Π the projection onto the positive semidefinite cone.  Its kinks can stall Newton,
mostly where couplings off the diagonal are weak.  Then Π is smoothed, so that WS = μ²I, and μ is lowered stepwise from
far above the solution to 0 (the idea of Chen & Tseng, doi 10.1007/s10107-002-0306-1).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from eoslib.status import Status

STEPS = (1, 0.5, 0.25, 0.125, 0.03, 0.01, 0.002)  # Newton steps tried at once
LIMIT = 100  # Newton steps in all
PATIENCE = 20  # of them before Π is smoothed


class ComplementarityStatus(Status):
    """How the solution of a complementarity problem ended."""

    SOLVED = "the multiplier is known to rounding"
    UNSOLVED = "the residual exceeds its tolerance: the multiplier is not to be trusted"
    NO_SOLUTION = "no multiplier of usable size makes the slack positive semidefinite: zeros stand for it"
    NOT_FINITE = "the Gram matrix or the slack is not finite: zeros stand for the multiplier"


class Multiplier(NamedTuple):
    """A solution W of the complementarity problem, and how far it is one."""

    value: Float[Array, "k k"]  # W; positive semidefinite within the residual
    slack: Float[Array, "k k"]  # S = B + 𝒢W
    residual: Float[Array, ""]  # ‖W − Π(W − S)‖ with 𝒢 in units of tr 𝒢/n and B in units of max |B|
    iterations: Int[Array, ""]  # Newton steps
    status: Int[Array, ""]  # a ComplementarityStatus

    @property
    def message(self) -> str | list:
        """The status in words."""
        return ComplementarityStatus.words(self.status)


def _weights(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    i, j = np.triu_indices(k)  # row, column and factor of each svec coordinate
    return i, j, np.where(i == j, 1, math.sqrt(2))


def _norm(a):
    return jnp.sqrt(jnp.sum(a * a, axis=-1))


def svec(matrix: Float[Array, "*batch k k"]) -> Float[Array, "*batch n"]:
    """Return the upper triangle row by row, entries off the diagonal times √2; dot products are trace products."""
    i, j, weight = _weights(matrix.shape[-1])
    entries = matrix[..., i, j]
    return entries * jnp.broadcast_to(jnp.asarray(weight, entries.dtype), entries.shape)


def smat(vector: Float[Array, "*batch n"]) -> Float[Array, "*batch k k"]:
    """Return the symmetric matrix of an svec."""
    i, j, weight = _weights(k := math.isqrt(2 * vector.shape[-1]))
    where = np.zeros((k, k), int)
    where[i, j] = where[j, i] = np.arange(len(i))
    entries = vector[..., where]
    return entries / jnp.broadcast_to(jnp.asarray(weight[where], entries.dtype), entries.shape)


def rotation(q: Float[Array, "k m"]) -> Float[Array, "rows columns"]:
    """Return K with svec(q Z qᵀ) = K svec(Z) for symmetric Z (m×m); K is orthogonal where q is."""
    (i, j, row), (a, b, column) = map(_weights, q.shape)
    weight = jnp.asarray(np.outer(row, column) / 2, q.dtype)
    return weight * (q[i][:, a] * q[j][:, b] + q[i][:, b] * q[j][:, a])


def solve(gram: Any, slack: Any, start: Any = None) -> Multiplier:
    """Return W ⪰ 0 with S = B + 𝒢W ⪰ 0 and ⟨W, S⟩ = 0, in the precision of the arguments, float32 at least.

    The status is SOLVED where the residual is at most eps^¾ max(1, ‖W‖), ‖W‖ in the residual's units, and at most
    √eps.  Rounding alone leaves about n eps max(1, ‖W‖); eps^¾ is 6e-6 in float32 and 2e-12 in float64.

    Args:
        gram: 𝒢 (n, n) = (T P⊥)(T P⊥)ᵀ with n = k(k+1)/2, positive semidefinite, in svec coordinates.
        slack: B (k, k), symmetric.
        start: A guess (k, k) of W, such as the last step's in this step's basis; ignored if it is not finite.

    Raises:
        ValueError: if shapes do not fit, or a matrix that is not traced is not symmetric.
    """
    gram, slack = jnp.asarray(gram), jnp.asarray(slack)
    dtype = jnp.dtype(jnp.float64 if jnp.float64 in (gram.dtype, slack.dtype) else jnp.float32)
    k = slack.shape[0] if slack.ndim else 0
    start = jnp.zeros((k, k), dtype) if start is None else jnp.asarray(start)
    for name, array, size in (("slack", slack, k), ("gram", gram, k * (k + 1) // 2), ("start", start, k)):
        if array.shape != (size, size) or not k:
            raise ValueError(f"{name} must have shape ({size}, {size}) for a slack of {k} rows, got {array.shape}")
        if isinstance(array, Tracer) or name == "start" or not np.isfinite(host := np.asarray(array, float)).all():
            continue
        if (off := np.abs(host - host.T).max()) > math.sqrt(jnp.finfo(dtype).eps) * np.abs(host).max():
            raise ValueError(f"{name} must be symmetric, got entries that differ from their mirror images by {off:.3g}")
    with jax.default_matmul_precision("highest"):
        return _solve(gram.astype(dtype), slack.astype(dtype), start.astype(dtype))


@jax.jit
def _solve(gram, slack, start, smoothed=False) -> Multiplier:
    k, n, dtype, (i, j, _) = len(slack), len(gram), slack.dtype, _weights(len(slack))
    eps, tiny, largest = (float(getattr(jnp.finfo(dtype), name)) for name in ("eps", "tiny", "max"))
    finite = jnp.isfinite(gram).all() & jnp.isfinite(slack).all()
    gram, slack = (jnp.where(finite, (matrix + matrix.T) / 2, 0) for matrix in (gram, slack))
    scale, unit = (jnp.where(size > 0, size, 1) for size in (jnp.trace(gram) / n, jnp.max(jnp.abs(slack))))
    g, b = gram / scale, svec(slack) / unit

    def parts(m, mu):  # smoothed positive and negative parts: their difference is m, their product μ²
        large = jnp.maximum((jnp.abs(m) + jnp.sqrt(m**2 + 4 * mu**2)) / 2, tiny)
        small = mu**2 / large
        return jnp.where(m > 0, large, small), jnp.where(m > 0, small, large)

    def defect(mu, w, m, q):
        return w - svec((q * parts(m, mu)[0][None]) @ q.T)

    def compare(ws, mu):
        points = ws, *jnp.linalg.eigh(smat(ws - b[None] - ws @ g), symmetrize_input=False)
        return points, _norm(jax.vmap(partial(defect, mu))(*points))

    def within(size, w, level):  # rounding of W enters S, and is tolerated up to √eps
        return (size <= level * jnp.maximum(1, _norm(w))) & (size + eps * _norm(w) <= eps**0.5)

    tolerance, goal, far = eps**0.75, max(2, n / 2) * eps, 1e3  # of the status, of Newton's steps; the first μ
    steps = jnp.asarray([*STEPS, 0, 0], dtype)  # the last two: no move, and the slot of far·I

    def improve(carry):
        (w, m, q), mu, count, smoothed, _ = carry
        # In the eigenbasis of W − S the derivative of Π is diagonal: divided differences ω of the positive part.
        positive, negative = parts(m, mu)
        total = (positive + negative)[i] + (positive + negative)[j]
        omega, rest = ((part[i] + part[j]) / total for part in (positive, negative))  # 1 − ω = rest, not rounded off
        basis, f = rotation(q), defect(mu, w, m, q)
        matrix = jnp.diag(rest) + omega[:, None] * (basis.T @ g @ basis + eps * jnp.eye(n, dtype=dtype))
        move = basis @ jnp.linalg.solve(matrix, -(f @ basis))
        move = jnp.where(jnp.isfinite(move).all(), move, 0)
        trials = w[None] + jnp.outer(steps, move)
        points, sizes = compare(trials.at[-1].set(far * svec(jnp.eye(k, dtype=dtype))), mu)
        best = jnp.argmin(jnp.where(jnp.isfinite(sizes), sizes, jnp.inf)[: len(STEPS)])
        stalled = ~(sizes[best] < jnp.where(mu > 0, 0.999, 0.95) * _norm(f))
        best = jnp.where(stalled, len(STEPS), best)
        reached = partial(within, sizes[best], trials[best])
        smooth = (mu == 0) & ~smoothed & ~reached(tolerance) & (stalled | (count + 1 >= PATIENCE))
        again = (mu > 0) | smooth | ~(stalled | reached(goal))
        # Where W is near the path, μ falls to a tenth after a full step, else to half; from √eps/10 to 0.
        near = stalled | (sizes[best] < 0.1 * mu)
        lower = mu * jnp.where(near, jnp.where(best == 0, 0.1, 0.5), 1)
        mu = jnp.where(smooth, far, jnp.where(lower > 0.1 * eps**0.5, lower, 0)).astype(dtype)
        best = jnp.where(smooth, len(STEPS) + 1, best)
        return [each[best] for each in points], mu, count + 1, smoothed | smooth, again

    zero, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    if k == 1:
        fits = gram > (need := jnp.maximum(-slack, 0)) / largest
        value = jnp.where(fits, need / jnp.where(fits, gram, 1), 0)
        point = [each[0] for each in compare(value * (scale / unit), zero)[0]]
    else:
        start = svec((start + start.T) / 2) * (scale / unit)
        points, sizes = compare(jnp.stack([0 * b, jnp.where(jnp.isfinite(start).all(), start, 0)]), zero)
        point = [each[best := jnp.argmin(sizes)] for each in points]
        carry = point, zero, count, jnp.asarray(smoothed), ~within(sizes[best], point[0], goal)
        point, _, count, *_ = jax.lax.while_loop(lambda c: c[-1] & (c[2] < LIMIT), improve, carry)
        value = smat(point[0]) * (unit / scale)
    residual = _norm(defect(zero, *point))
    y = point[0] - defect(zero, *point)  # no multiplier has a trace below −⟨B, Y⟩/‖𝒢Y‖, whatever Y ⪰ 0
    cases = {
        ComplementarityStatus.NOT_FINITE: ~finite,
        ComplementarityStatus.SOLVED: within(residual, point[0], tolerance) & jnp.isfinite(value).all(),
        ComplementarityStatus.NO_SOLUTION: -jnp.sum(b * y) * eps**0.5 > _norm(y @ g),
    }
    status = jnp.select(list(cases.values()), list(cases), ComplementarityStatus.UNSOLVED).astype(jnp.int32)
    usable = finite & jnp.isfinite(value).all() & (status != ComplementarityStatus.NO_SOLUTION)
    value, residual = jnp.where(usable, value, 0), jnp.where(usable, residual, jnp.inf)
    return Multiplier(value, slack + smat(gram @ svec(value)), residual, count, status)
