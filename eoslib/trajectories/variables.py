"""Every variable that a track records, described once: dimensions, unit, symbol, meaning, and what computes it.

Units are those of the loss and of the parameters: a *length* is a distance between parameter vectors, a *curvature* a
loss/length².  :func:`describe` writes the descriptions into a data set's attributes, where files, plots and tables
read them; to record another variable add a row here.

>>> get("delta_squared").units, get("delta_squared").source
('length²', 'geometry.LocalGeometry.delta_squared')
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from eoslib.constrained import ConstrainedRecord
from eoslib.geometry import LocalGeometry
from eoslib.objective import inner
from eoslib.stable_set import Violation
from eoslib.trajectories.descent import DescentRecord
from eoslib.trajectories.prediction import PredictedRecord


class Moment(NamedTuple):
    """What the variables of one step are computed from."""

    theta: Float[Array, " p"]  # θ_t of gradient descent
    descent: DescentRecord
    constrained: ConstrainedRecord
    violation: Violation  # of the stable set, by θ†
    v: Float[Array, " p"]  # θ − θ†
    predicted: PredictedRecord
    predicting: Array  # whether the prediction runs on its own
    generalized: PredictedRecord | None
    flow_theta: Float[Array, " p"] | None
    flow_loss: Float[Array, ""] | None
    transport: Float[Array, ""] | None

    @property
    def geometry(self) -> LocalGeometry:
        """The local geometry at θ†."""
        return self.constrained.geometry

    @property
    def x(self) -> Float[Array, ""]:
        """X = u·v."""
        return inner(self.geometry.eigenvector, self.v)

    @property
    def y(self) -> Float[Array, ""]:
        """Y = ∇S⊥·v."""
        return inner(self.geometry.perpendicular, self.v)

    @property
    def sharpness_linear(self) -> Float[Array, ""]:
        """S† + ∇S·v."""
        return self.geometry.sharpness + inner(self.geometry.sharpness_gradient, self.v)


class Variable(NamedTuple):
    """One recorded variable."""

    name: str
    units: str
    symbol: str
    long_name: str
    source: str  # function of eoslib that computes it
    dims: tuple[str, ...]
    needs: str  # the option of a track that switches it on
    compute: Callable[[Moment], Any] | None  # for variables of every step


def _rows(source: str, *rows: tuple, dims: tuple[str, ...] = ("t",), needs: str = "") -> tuple[Variable, ...]:
    """Rows (name, units, symbol, long name, and what of a Moment it is: an attribute's path or a function)."""
    found = []
    for name, units, symbol, words, *compute in rows:
        how = attrgetter(compute[0]) if compute and isinstance(compute[0], str) else compute[0] if compute else None
        found.append(Variable(name, units, symbol, words, source, dims, needs, how))
    return tuple(found)


_length = jnp.linalg.norm


def _norm(path: str) -> Callable[[Moment], Any]:
    return lambda m: _length(attrgetter(path)(m))


def _prediction(kind: str, words: str, step: str, star: str, needs: str = "") -> tuple[Variable, ...]:
    """The variables of a prediction; ``kind`` is its field of :class:`Moment`."""
    return _rows(
        f"trajectories.prediction.{step}",
        (f"{kind}_x", "length", f"x{star}", f"displacement along u of the {words}", f"{kind}.x"),
        (f"{kind}_y", "curvature", f"y{star}", f"excess sharpness of the {words}", f"{kind}.y"),
        (f"{kind}_loss", "loss", f"L{star}", f"loss of the {words}", f"{kind}.loss"),
        (f"{kind}_sharpness", "curvature", f"S{star}", f"sharpness of the {words}", f"{kind}.sharpness"),
        (f"{kind}_distance", "length", f"‖v{star}‖", f"distance of the {words} from θ†", _norm(f"{kind}.v")),
        (
            f"{kind}_error", "length", f"‖v − v{star}‖", f"distance of the {words} from gradient descent",
            lambda m: _length(m.v - getattr(m, kind).v),
        ),
        needs=needs,
    )  # fmt: skip


#: The one table.
VARIABLES: tuple[Variable, ...] = (
    *_rows(
        "trajectories.approach.find_instability",
        ("approach_loss", "loss", "L", "loss before the instability"),
        dims=("approach_step",),
    ),
    *_rows(
        "trajectories.approach.find_instability",
        ("check_step", "steps", "t", "step of a measurement of the sharpness"),
        ("check_sharpness", "curvature", "S", "sharpness before the instability"),
        ("check_alpha", "curvature²", "α", "progressive sharpening −∇L·∇S before the instability"),
        ("check_gradient_norm", "loss/length", "‖∇L‖", "norm of the gradient before the instability"),
        dims=("check",),
    ),
    *_rows(
        "trajectories.descent.gradient_descent_step",
        ("gd_loss", "loss", "L(θ)", "loss of gradient descent", "descent.loss"),
        ("gd_sharpness", "curvature", "S(θ)", "sharpness of gradient descent", "descent.sharpness"),
        ("gd_sharpness_residual", "curvature", "‖∇²Lu − Su‖", "residual of u at θ", "descent.residual"),
        ("gd_gradient_norm", "loss/length", "‖∇L(θ)‖", "norm of the gradient at θ", _norm("descent.gradient")),
        ("gd_products", "1", "", "Hessian-vector products spent on u at θ", "descent.products"),
    ),
    *_rows(
        "trajectories.state.step",
        ("x", "length", "x", "displacement of gradient descent along u, u·(θ − θ†)", "x"),
        ("y", "curvature", "y", "excess sharpness to first order, ∇S⊥·(θ − θ†)", "y"),
        ("distance", "length", "‖θ − θ†‖", "distance of gradient descent from θ†", _norm("v")),
        ("sharpness_linear", "curvature", "S† + ∇S·v", "sharpness to first order in v = θ − θ†", "sharpness_linear"),
        (
            "sharpness_linear_perpendicular",
            "curvature",
            "S† + y",
            "the same without the part along u",
            lambda m: m.geometry.sharpness + m.y,
        ),
        ("predicting", "1", "", "whether the prediction runs on its own", "predicting"),
    ),
    *_prediction("predicted", "prediction", "predicted_step", "*"),
    *_prediction("generalized", "generalized prediction", "generalized_predicted_step", "ᵍ", needs="generalized"),
    *_rows(
        "constrained.constrained_step",
        ("constrained_loss", "loss", "L(θ†)", "loss of the constrained trajectory", "geometry.loss"),
        (
            "constrained_sharpness",
            "curvature",
            "S(θ†)",
            "sharpness of the constrained trajectory",
            "geometry.sharpness",
        ),
        ("gradient_norm", "loss/length", "‖∇L(θ†)‖", "norm of the gradient at θ†", _norm("geometry.gradient")),
        ("correction", "length²/curvature", "c", "multiple of ∇S⊥ that bent θ†, ≈ ηδ²/2", "constrained.correction"),
        ("active", "1", "", "whether the constraint bent the step", "constrained.active"),
        ("products", "1", "", "Hessian-vector products spent on u at θ†", "geometry.products"),
        ("rounds", "1", "", "projection rounds besides the one centre", "constrained.rounds"),
    ),
    *_rows("geometry.LocalGeometry.alpha", ("alpha", "curvature²", "α", "sharpening −∇L·∇S", "geometry.alpha")),
    *_rows("geometry.LocalGeometry.beta", ("beta", "curvature²/length²", "β", "‖∇S⊥‖²", "geometry.beta")),
    *_rows("geometry.LocalGeometry.cosine", ("gamma", "1", "γ", "alignment α/(‖∇L‖‖∇S⊥‖)", "geometry.cosine")),
    *_rows(
        "geometry.LocalGeometry.delta_squared",
        ("delta_squared", "length²", "δ²", "squared radius of the oscillation, 2α/β", "geometry.delta_squared"),
    ),
    *_rows(
        "geometry.LocalGeometry.slope_along_u",
        ("sharpness_slope", "curvature/length", "∇S·u", "slope of the sharpness along u", "geometry.slope_along_u"),
    ),
    *_rows(
        "geometry.LocalGeometry.residual",
        ("residual", "curvature", "‖∇²Lu − Su‖", "residual of u at θ†", "geometry.residual"),
    ),
    *_rows(
        "stable_set.violation",
        ("violation", "1", "(Sη/2 − 1)₊", "relative violation of S ≤ 2/η by θ†", "violation.sharpness"),
        ("slope", "1", "|u·∇L|/‖∇L‖", "relative slope along u at θ†", "violation.slope"),
    ),
    *_rows(
        "trajectories.state.step",
        ("transport", "1", "β_{s→t}/β_s", "transported product since its last refresh", "transport"),
        needs="transport",
    ),
    *_rows(
        "trajectories.flow.flow_step",
        ("flow_loss", "loss", "L", "loss of gradient flow", "flow_loss"),
        (
            "flow_distance",
            "length",
            "‖θ_flow − θ†‖",
            "distance of gradient flow from θ†",
            lambda m: _length(m.flow_theta - m.constrained.theta),
        ),
        (
            "flow_gd_distance",
            "length",
            "‖θ_flow − θ‖",
            "distance of gradient flow from gradient descent",
            lambda m: _length(m.flow_theta - m.theta),
        ),
        needs="flow",
    ),
    *_rows(
        "trajectories.flow.flow_step",
        ("flow_sharpness", "curvature", "S", "sharpness of gradient flow"),
        ("flow_gradients", "1", "", "gradients spent on gradient flow"),
        ("flow_rejected", "1", "", "steps that the error control of gradient flow repeated"),
        dims=("interval",),
    ),
    *_rows(
        "eigen.leading_eigenpairs",
        ("eigenvalues", "curvature", "λ", "leading eigenvalues at θ†"),
        dims=("stride", "pair"),
    ),
    *_rows(
        "trajectories.assumptions.tensor_norm",
        ("rho3", "loss/length³", "ρ₃", "lower bound of the norm of ∇³L"),
        ("rho4", "loss/length⁴", "ρ₄", "lower bound of the norm of ∇⁴L"),
        dims=("stride",),
    ),
    *_rows(
        "trajectories.assumptions.measure",
        ("third_along_v", "1", "‖∇³L[v̂,v̂]‖/ρ₃", "third derivative along v*⊥"),
        ("third_along_gradient", "1", "‖∇³L[ĝ,ĝ]‖/ρ₃", "third derivative along ∇L⊥"),
        ("curvature_along_v", "1", "|v̂·∇²Lv̂|/λ₁", "curvature along v*⊥"),
        ("exact_predicted_loss", "loss", "L(θ† + v*)", "loss at the predicted position"),
        ("exact_predicted_sharpness", "curvature", "S(θ† + v*)", "sharpness at the predicted position"),
        dims=("stride",),
    ),
    *_rows(
        "trajectories.assumptions.measure",
        ("profile", "loss", "L(θ† + xu)", "loss along u"),
        ("profile_offset", "length", "x", "displacement along u of the profile"),
        dims=("stride", "offset"),
    ),
)
_BY_NAME = {variable.name: variable for variable in VARIABLES}


def get(name: str) -> Variable:
    """Return the description of a variable.

    Raises:
        ValueError: on an unknown name; the message lists the known ones.
    """
    if name not in _BY_NAME:
        raise ValueError(f"unknown variable {name!r}; known: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def values(moment: Moment, options) -> dict[str, Array]:
    """Compute the variables of one step that a track's options ask for, in the precision of the positions."""
    return {
        v.name: jnp.asarray(v.compute(moment)).astype(moment.theta.dtype)
        for v in VARIABLES
        if v.compute is not None and (not v.needs or getattr(options, v.needs))
    }


def describe(data):
    """Return an xarray data set whose known variables carry ``long_name``, ``units``, ``symbol`` and ``source``."""
    for name in data.variables:
        if variable := _BY_NAME.get(str(name)):
            fields = ("long_name", "units", "symbol", "source")
            data[name].attrs |= {field: getattr(variable, field) for field in fields if getattr(variable, field)}
    return data
