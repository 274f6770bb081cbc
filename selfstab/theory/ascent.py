"""Sharpness-aware minimization (SAM) at a minimum of zero loss: its bounce, and the drift of the sharpness.

SAM steps along the gradient found at a distance ρ uphill.  Along the leading eigenvector it jumps between x and −x, so
that its gradients are always those at the distance |x| + ρ, and the cubic force ½(|x| + ρ)²∇S⊥ pushes to flatter
ground.  The limit of long times is that of arXiv 2210.01513; the constants, and the fading of the stiff directions, are
derived for this project.

>>> float(bounce(100.0, learning_rate=0.01, radius=0.1))
0.1
"""

from __future__ import annotations

import numpy as np
from jax.typing import ArrayLike


def bounce(sharpness: ArrayLike, *, learning_rate: ArrayLike, radius: ArrayLike) -> np.ndarray | np.floating:
    """Return |x| = ηρS/(2 − ηS), a length, at which a SAM step leads from x to −x on a parabola of curvature S.

    Raises:
        ValueError: if ηS does not lie in (0, 2), where this two-cycle exists and attracts.
    """
    product = np.asarray(learning_rate) * np.asarray(sharpness)
    if not np.all((product > 0) & (product < 2)):
        raise ValueError(f"learning_rate * sharpness must lie in (0, 2), got {product!r}")
    return np.asarray(radius) * product / (2 - product)


def retained(curvatures: ArrayLike, *, sharpness: float, learning_rate: float) -> np.ndarray:
    """Return r_i = 1 − ηλ_i(1 + ρλ_i/(S|x|)), the part of a displacement across u that a step keeps, (m,).

    The bracket is SAM's ascent, at the gradient's norm S|x| of the bounce, where ρ/|x| = (2 − ηS)/(ηS).
    """
    relative, product = np.asarray(curvatures, float) / sharpness, learning_rate * sharpness
    return 1 - product * relative * (1 + relative / float(bounce(sharpness, learning_rate=learning_rate, radius=1.0)))


def drift(
    curvatures: ArrayLike, squares: ArrayLike, steps: int, *, sharpness: float, learning_rate: float, reach: float
) -> np.ndarray:
    """Return the change of the sharpness in each of some SAM steps from the minimum, (steps,), a curvature.

    S_{t+1} − S_t = −(η/2)(|x| + ρ)² Σ_i β_i² f_i r_i^t: where λ_i = 0 the floor never pulls back, and r_i and f_i are
    1.  f_i = 1 + (λ_i/S)·ρ|x|/(|x| + ρ)² is the ascent's part in the push: it follows the gradient ½x²β_i, too.

    Args:
        curvatures: λ_i of the Hessian across u (m,); one entry may stand for several directions of one curvature.
        squares: β_i² = (∇S·e_i)² along these (m,), curvature²/length².
        steps: Number of steps.
        sharpness: S at the minimum.
        learning_rate: η, with ηS < 2.
        reach: |x| + ρ, a length.
    """
    kept = retained(curvatures, sharpness=sharpness, learning_rate=learning_rate)
    product = learning_rate * sharpness
    push = np.asarray(squares, float) * (1 + np.asarray(curvatures, float) / sharpness * product * (2 - product) / 4)
    return -learning_rate / 2 * reach**2 * (push * kept ** np.arange(steps)[:, None]).sum(axis=1)
