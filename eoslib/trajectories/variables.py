"""Every variable that a track records, described once: dimensions, unit, symbol, meaning, and what computes it.

Units are those of the loss and of the parameters: a *length* is a distance between parameter vectors, a *curvature* a
loss/length².  :func:`describe` writes the descriptions into a data set's attributes, where files, plots and tables
read them.  To record another variable, add a row here.

>>> get("delta_squared").units, get("delta_squared").source
('length²', 'geometry.LocalGeometry.delta_squared')
"""

from __future__ import annotations

from operator import attrgetter
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eoslib.constrained import ConstrainedRecord
from eoslib.geometry import LocalGeometry, epsilon
from eoslib.position import Theta
from eoslib.rules import GradientDescent
from eoslib.stable_set import Violation
from eoslib.trajectories.central import CentralMoment
from eoslib.trajectories.descent import DescentRecord
from eoslib.trajectories.flow import FlowMoment
from eoslib.trajectories.prediction import PredictedRecord, coordinates


class Block(NamedTuple):
    """What k directions add to a step's record; matrices have a row and a column per direction."""

    size: Int[Array, ""]  # k
    values: Float[Array, " k"]  # Λ
    x: Float[Array, " k"]  # U(θ − θ†)
    y: Float[Array, "k k"]  # 𝒯[v⊥]
    covariance: Float[Array, "k k"]  # Σ = 2W/η
    trace: Float[Array, ""]  # tr Σ
    sharpening: Float[Array, "k k"]  # A
    epsilon: Float[Array, ""]  # η√λ_max(A)₊
    unsolved: Float[Array, ""]  # residual of the complementarity problem for Σ
    overlap: Float[Array, "k k"]  # R

    @classmethod
    def at(cls, rule: GradientDescent, record: ConstrainedRecord, v: Float[Array, " p"]) -> Block:
        """Return them at θ†, for a displacement v (p,) from it."""
        geometry, covariance = record.geometry, 2 * record.multiplier / rule.learning_rate
        a, k = geometry.sharpening(rule), geometry.values.size
        largest = jnp.maximum(jnp.linalg.eigvalsh(a)[-1], 0)
        x, y = coordinates(geometry, v)
        trace, size = jnp.trace(covariance), jnp.full((), k, jnp.int32)
        values, eps = geometry.values, epsilon(largest, rule.learning_rate)
        return cls(size, values, x, y, covariance, trace, a, eps, record.unsolved, record.overlap)


class Moment(NamedTuple):
    """Everything from which the variables of one step are computed."""

    theta: Theta  # θ_t of gradient descent
    descent: DescentRecord
    constrained: ConstrainedRecord
    geometry: LocalGeometry  # at θ†
    violation: Violation  # of the stable set, by θ†
    v: Float[Array, " p"]  # θ − θ†
    x: Float[Array, ""]  # u·v
    y: Float[Array, ""]  # ∇S⊥·v
    sharpness_linear: Float[Array, ""]  # S† + ∇S·v
    sharpness_across: Float[Array, ""]  # S† + y
    predicted: PredictedRecord
    predicting: Array  # whether the prediction runs on its own
    generalized: PredictedRecord | None
    flow: FlowMoment | None
    transport: Float[Array, ""] | None
    block: Block | None
    central: CentralMoment | None


#: What computes the parts of a :class:`Moment`, and what is recorded beside the steps.
_SOURCES = {
    "descent": "trajectories.descent.gradient_descent_step", "constrained": "constrained.constrained_step",
    "violation": "stable_set.violation", "geometry": "geometry.LocalGeometry", "eigen": "eigen.leading_eigenpairs",
    "predicted": "trajectories.prediction.predicted_step", "flow": "trajectories.flow.flow_step",
    "generalized": "trajectories.prediction.generalized_predicted_step",
    "approach": "trajectories.approach.find_instability",
    "block": "trajectories.variables.Block", "central": "trajectories.central.central_flow_step",
    "tensor": "trajectories.assumptions.tensor_norm", "measure": "trajectories.assumptions.measure",
}  # fmt: skip


class Variable(NamedTuple):
    """One recorded variable."""

    name: str
    units: str
    symbol: str
    long_name: str
    place: str  # the path of an attribute of a Moment, "norm of" one or of a difference; beside the steps a source
    dims: tuple[str, ...]

    @property
    def source(self) -> str:
        """Return the function of eoslib that computes it."""
        head, _, rest = self.place.removeprefix("norm of ").split(" ")[0].partition(".")
        exact = self.place.startswith("geometry.") and isinstance(getattr(LocalGeometry, rest), property)
        return _SOURCES.get(head, "trajectories.state.step") + (f".{rest}" if exact else "")


def _prediction(kind: str, words: str, star: str):
    """Return the variables of a prediction; ``kind`` is its field of :class:`Moment`."""
    return (
        (f"{kind}_x", "length", f"x{star}", f"displacement along u of the {words}", f"{kind}.x"),
        (f"{kind}_y", "curvature", f"y{star}", f"excess sharpness of the {words}", f"{kind}.y"),
        (f"{kind}_loss", "loss", f"L{star}", f"loss of the {words}", f"{kind}.loss"),
        (f"{kind}_true_loss", "loss", f"L(θ† + v{star})", f"loss where the {words} is", f"{kind}.true_loss"),
        (f"{kind}_sharpness", "curvature", f"S{star}", f"sharpness of the {words}", f"{kind}.sharpness"),
        (f"{kind}_distance", "length", f"‖v{star}‖", f"distance of the {words} from θ†", f"norm of {kind}.v"),
        (f"{kind}_error", "length", f"‖v − v{star}‖", f"distance of the {words} from θ", f"norm of {kind}.v - v"),
    )


#: The variables of every step: name, units, symbol, long name and place.
_STEPS = (
    ("gd_loss", "loss", "L(θ)", "loss of gradient descent", "descent.loss"),
    ("gd_sharpness", "curvature", "S(θ)", "sharpness of gradient descent", "descent.sharpness"),
    ("gd_sharpness_residual", "curvature", "‖∇²Lu − Su‖", "residual of u at θ", "descent.residual"),
    ("gd_gradient_norm", "loss/length", "‖∇L(θ)‖", "norm of the gradient at θ", "norm of descent.gradient"),
    ("gd_products", "1", "", "Hessian-vector products spent on u at θ", "descent.products"),
    ("x", "length", "x", "displacement of gradient descent along u, u·(θ − θ†)", "x"),
    ("y", "curvature", "y", "excess sharpness to first order, ∇S⊥·(θ − θ†)", "y"),
    ("distance", "length", "‖θ − θ†‖", "distance of gradient descent from θ†", "norm of v"),
    ("sharpness_linear", "curvature", "S† + ∇S·v", "sharpness to first order in v = θ − θ†", "sharpness_linear"),
    ("sharpness_linear_perpendicular", "curvature", "S† + y", "the same without (∇S·u)x", "sharpness_across"),
    ("predicting", "1", "", "whether the prediction runs on its own", "predicting"),
    *_prediction("predicted", "prediction", "*"),
    *_prediction("generalized", "generalized prediction", "ᵍ"),
    ("constrained_loss", "loss", "L(θ†)", "loss of the constrained path", "geometry.loss"),
    ("constrained_sharpness", "curvature", "S(θ†)", "sharpness of the constrained trajectory", "geometry.sharpness"),
    ("gradient_norm", "loss/length", "‖∇L(θ†)‖", "norm of the gradient at θ†", "norm of geometry.gradient"),
    ("alpha", "curvature²", "α", "progressive sharpening −∇L·∇S at θ†", "geometry.alpha"),
    ("beta", "curvature²/length²", "β", "self-stabilization ‖∇S⊥‖² at θ†", "geometry.beta"),
    ("gamma", "1", "γ", "alignment α/(‖∇L‖‖∇S⊥‖) at θ†", "geometry.cosine"),
    ("delta_squared", "length²", "δ²", "squared radius of the oscillation, 2α/β", "geometry.delta_squared"),
    ("sharpness_slope", "curvature/length", "∇S·u", "slope of the sharpness along u", "geometry.slope_along_u"),
    ("residual", "curvature", "‖∇²Lu − Su‖", "residual of u at θ†", "geometry.residual"),
    ("products", "1", "", "Hessian-vector products spent on u at θ†", "geometry.products"),
    ("correction", "length²/curvature", "c", "multiple of ∇S⊥ that bent θ†, ≈ ηδ²/2", "constrained.correction"),
    ("active", "1", "", "whether the constraint bent the step", "constrained.active"),
    ("rounds", "1", "", "projection rounds besides the one center", "constrained.rounds"),
    ("violation", "1", "(Sη/2 − 1)₊", "relative violation of S ≤ 2/η by θ†", "violation.sharpness"),
    ("slope", "1", "|u·∇L|/‖∇L‖", "relative slope along u at θ†", "violation.slope"),
    ("transport", "1", "β_{s→t}/β_s", "transported product", "transport"),
    ("block_size", "1", "k", "directions followed", "block.size"),
    ("covariance_trace", "length²", "tr Σ", "trace of the oscillation's covariance; δ² for k = 1", "block.trace"),
    ("block_epsilon", "1", "ε", "η√λ_max(A)₊ of the block", "block.epsilon"),
    ("unsolved", "1", "", "residual of the complementarity problem", "block.unsolved"),
    ("central_loss", "loss", "L(w)", "loss of the central flow", "central.loss"),
    ("central_sharpness", "curvature", "S(w)", "sharpness of the central flow", "central.sharpness"),
    ("central_trace", "length²", "tr Σ(w)", "trace of the central flow's covariance", "central.trace"),
    ("central_distance", "length", "‖w − θ†‖", "distance of w from θ†", "norm of central.theta - constrained.theta"),
    ("flow_loss", "loss", "L", "loss of gradient flow", "flow.loss"),
    ("flow_distance", "length", "‖θ_f − θ†‖", "distance of the flow from θ†", "norm of flow.theta - constrained.theta"),
    ("flow_gd_distance", "length", "‖θ_f − θ‖", "distance of flow from θ", "norm of flow.theta - theta"),
)
#: The one table, by dimensions.
_TABLE: dict[tuple[str, ...], tuple[tuple[str, str, str, str, str], ...]] = {
    ("approach_step",): (("approach_loss", "loss", "L", "loss before the instability", "approach"),),
    ("check",): (
        ("check_step", "steps", "t", "step of a measurement of the sharpness", "approach"),
        ("check_sharpness", "curvature", "S", "sharpness before the instability", "approach"),
        ("check_alpha", "curvature²", "α", "progressive sharpening −∇L·∇S before the instability", "approach"),
        ("check_gradient_norm", "loss/length", "‖∇L‖", "norm of the gradient before the instability", "approach"),
    ),
    ("t",): _STEPS,
    ("t", "direction"): (
        ("block_eigenvalues", "curvature", "λ_i", "eigenvalues of the block at θ†", "block.values"),
        ("block_x", "length", "x_i", "displacement of gradient descent along u_i", "block.x"),
        ("predicted_block_x", "length", "x_i*", "displacement of the prediction along u_i", "predicted.block"),
    ),
    ("t", "direction", "other"): (
        ("block_y", "curvature", "Y", "excess curvature of the block, 𝒯[v⊥]", "block.y"),
        ("covariance", "length²", "Σ", "covariance of the oscillation that bends θ†, 2W/η", "block.covariance"),
        ("block_sharpening", "curvature²", "A", "progressive sharpening of the block at θ†", "block.sharpening"),
        ("block_overlap", "1", "R", "turn of the eigenvectors since the last step", "block.overlap"),
    ),
    ("interval",): (
        ("flow_sharpness", "curvature", "S", "sharpness of gradient flow", "flow"),
        ("flow_gradients", "1", "", "gradients spent on gradient flow", "flow"),
        ("flow_rejected", "1", "", "steps that the error control of gradient flow repeated", "flow"),
    ),
    ("stride", "pair"): (("eigenvalues", "curvature", "λ", "leading eigenvalues at θ†", "eigen"),),
    ("stride",): (
        ("rho3", "loss/length³", "ρ₃", "lower bound of the norm of ∇³L", "tensor"),
        ("rho4", "loss/length⁴", "ρ₄", "lower bound of the norm of ∇⁴L", "tensor"),
        ("third_along_v", "1", "‖∇³L[v̂,v̂]‖/ρ₃", "third derivative along v*⊥", "measure"),
        ("third_along_gradient", "1", "‖∇³L[ĝ,ĝ]‖/ρ₃", "third derivative along ∇L⊥", "measure"),
        ("curvature_along_v", "1", "|v̂·∇²Lv̂|/λ₁", "curvature along v*⊥", "measure"),
        ("exact_predicted_loss", "loss", "L(θ† + v*)", "loss at the predicted position", "measure"),
        ("exact_predicted_sharpness", "curvature", "S(θ† + v*)", "sharpness at the predicted position", "measure"),
    ),
    ("stride", "offset"): (
        ("profile", "loss", "L(θ† + xu)", "loss along u", "measure"),
        ("profile_offset", "length", "x", "displacement along u of the profile", "measure"),
    ),
}
VARIABLES = tuple(Variable(*row, dims) for dims, rows in _TABLE.items() for row in rows)
_BY_NAME = {variable.name: variable for variable in VARIABLES}


def get(name: str) -> Variable:
    """Return the description of a variable.

    Raises:
        ValueError: on an unknown name; the message lists the known ones.
    """
    if name not in _BY_NAME:
        raise ValueError(f"unknown variable {name!r}; known: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def values(moment: Moment) -> dict[str, Array]:
    """Compute the variables of one step from what the moment holds, in the precision of the derivatives."""
    found = {}
    for row in VARIABLES:
        first, _, second = row.place.removeprefix("norm of ").partition(" - ")
        several = row.dims[1:] and moment.block is None
        if row.dims[0] == "t" and not several and getattr(moment, first.partition(".")[0]) is not None:
            value = attrgetter(first)(moment)
            value = value - attrgetter(second)(moment) if second else value
            value = jnp.linalg.norm(value) if row.place.startswith("norm of ") else value
            found[row.name] = jnp.asarray(value).astype(moment.v.dtype)
    return found


#: The coordinates of a track, all in steps.
COORDINATES = {
    "t": "step after the instability", "interval": "first step of an interval of the flow",
    "stride": "step at which the assumptions are measured", "approach_step": "step of the approach",
}  # fmt: skip


def describe(data):
    """Return an xarray data set whose known variables carry ``long_name``, ``units``, ``symbol`` and ``source``."""
    for name in data.coords.keys() & COORDINATES.keys():
        data[name].attrs |= {"long_name": COORDINATES[name], "units": "steps"}
    for name in data.variables.keys() & _BY_NAME.keys():
        described = {field: getattr(_BY_NAME[name], field) for field in ("long_name", "units", "symbol", "source")}
        data[name].attrs |= {field: words for field, words in described.items() if words}
    return data
