"""Every recorded quantity against dense derivatives on the small network and closed forms on the toy; how runs end."""

import dataclasses
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import eoslib
from eoslib.objective import Objective
from eoslib.rules import GradientDescent
from eoslib.stable_set import ProjectionStatus
from eoslib.trajectories.state import DEFAULT, Options
from eoslib.trajectories.track import dataset, run, track_from

ETA = oracles.RATE
EDGE = 2 / ETA


# --- the network, against dense derivatives ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact(network, tracked, edge):
    """What each recorded series should hold, from dense derivatives at the positions visited."""
    dense, states = network[2], tracked[1]
    rows, u = [], np.asarray(edge[1])
    for state in states[:-1]:
        theta, center, flow = (np.asarray(c.theta) for c in (state.descent, state.constrained, state.flow))
        values, vectors = dense.eigen(center)
        u = vectors[0] * np.sign(vectors[0] @ u)
        gradient, slope = np.asarray(dense.gradient(center)), np.asarray(dense.derivative(center, u))
        across, v = slope - (slope @ u) * u, theta - center
        rows.append(
            dict(
                theta=center, u=u, v=v, across=across, hessian=np.asarray(dense.hessian(center)),
                gap=values[0] - values[1], gd_loss=dense.loss(theta), gd_sharpness=dense.sharpness(theta),
                gd_gradient_norm=np.linalg.norm(dense.gradient(theta)),
                x=u @ v, y=across @ v, distance=np.linalg.norm(v),
                sharpness_linear=values[0] + slope @ v, sharpness_linear_perpendicular=values[0] + across @ v,
                constrained_loss=dense.loss(center), constrained_sharpness=values[0],
                gradient_norm=np.linalg.norm(gradient), alpha=-gradient @ slope, beta=across @ across,
                gamma=-gradient @ slope / np.linalg.norm(gradient) / np.linalg.norm(across),
                delta_squared=-2 * gradient @ slope / (across @ across), sharpness_slope=u @ slope,
                violation=max(values[0] / EDGE - 1, 0), slope=abs(u @ gradient) / np.linalg.norm(gradient),
                flow_loss=dense.loss(flow), flow_distance=np.linalg.norm(flow - center),
                flow_gd_distance=np.linalg.norm(flow - theta),
            )
        )  # fmt: skip
    series = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return types.SimpleNamespace(**series)


def tilt(tracked, exact) -> float:
    """The angle by which u is off at most: its residual over the eigengap (Davis and Kahan)."""
    return float((tracked[0].residual.values / exact.gap).max())


def test_the_eigenvectors_are_good_enough_for_what_follows(tracked, exact):
    data, _ = tracked
    assert tilt(tracked, exact) <= 5e-3 * EDGE / exact.gap.min()
    assert data.rounds.values.max() == 0  # the positions compared are those at which the series were measured


@pytest.mark.parametrize(
    "name", ["gd_loss", "gd_gradient_norm", "distance", "constrained_loss", "gradient_norm", "flow_gd_distance"]
)
def test_what_needs_no_eigenvector_is_exact(tracked, exact, name):
    np.testing.assert_allclose(tracked[0][name], getattr(exact, name), rtol=1e-9)


@pytest.mark.parametrize("name", ["flow_loss", "flow_distance"])
def test_the_flow_is_measured_where_it_stands(tracked, exact, name):
    np.testing.assert_allclose(tracked[0][name], getattr(exact, name), rtol=1e-9, atol=1e-12)


def test_sharpness_is_second_order_in_the_tilt(tracked, exact):
    data, _ = tracked
    miss = exact.constrained_sharpness - data.constrained_sharpness.values
    assert (miss >= -1e-10).all()  # a Rayleigh quotient
    assert (miss <= data.residual.values**2 / exact.gap + 1e-10).all()  # Kato and Temple
    gd_miss = exact.gd_sharpness - data.gd_sharpness.values
    assert (gd_miss >= -1e-10).all()
    np.testing.assert_array_less(gd_miss, 2 * data.gd_sharpness_residual.values**2 / exact.gap + 1e-10)
    np.testing.assert_allclose(data.gd_sharpness, exact.gd_sharpness, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("x", lambda e: e.distance),
        ("y", lambda e: e.distance * np.sqrt(e.beta)),
        ("sharpness_linear", lambda e: e.distance * np.sqrt(e.beta)),
        ("sharpness_linear_perpendicular", lambda e: e.distance * np.sqrt(e.beta)),
        ("alpha", lambda e: e.alpha / e.gamma),
        ("beta", lambda e: e.beta),
        ("gamma", lambda e: 1),
        ("delta_squared", lambda e: e.delta_squared / e.gamma),
        ("sharpness_slope", lambda e: np.sqrt(e.beta)),
        ("slope", lambda e: 1),
        ("violation", lambda e: 1e-3),
    ],
)
def test_what_depends_on_the_eigenvector_is_right_to_first_order_in_its_tilt(tracked, exact, name, scale):
    """∇S = ∇³L[u, u] turns by 2‖∇³L[u, ·]‖ a unit of tilt, on this network up to some four times ‖∇S⊥‖."""
    miss = np.abs(tracked[0][name].values - getattr(exact, name))
    assert (miss <= 10 * tilt(tracked, exact) * scale(exact)).all()
    assert np.ptp(getattr(exact, name)) > 0


def test_what_is_derived_agrees_with_what_it_derives_from(tracked):
    data, _ = tracked
    np.testing.assert_allclose(data.delta_squared, 2 * data.alpha / data.beta, rtol=1e-12)
    np.testing.assert_allclose(data.gamma, data.alpha / (data.gradient_norm * data.beta**0.5), rtol=1e-12)
    np.testing.assert_allclose(data.sharpness_linear_perpendicular, data.constrained_sharpness + data.y, rtol=1e-12)
    linear = data.sharpness_linear_perpendicular + data.sharpness_slope * data.x
    np.testing.assert_allclose(data.sharpness_linear, linear, rtol=1e-12)
    assert (data.active == 1).all()
    np.testing.assert_allclose(2 * data.correction / ETA, data.delta_squared, rtol=2e-3)  # ηδ²/2, up to order ε²


def test_descent_starts_kicked_and_is_gradient_descent(network, tracked, exact):
    _, _, dense = network
    data, states = tracked
    delta = float(data.delta_squared[0]) ** 0.5
    np.testing.assert_allclose(data.x[0], 0.5 * delta, atol=2e-2 * delta)  # half a δ, and the projection's own move
    for before, after in itertools.pairwise(states):
        expected = before.descent.theta - ETA * dense.gradient(before.descent.theta)
        np.testing.assert_allclose(after.descent.theta, expected, rtol=1e-12, atol=1e-14)


def test_the_constrained_trajectory_stays_on_the_edge_and_descends(tracked, exact):
    assert np.abs(exact.constrained_sharpness / EDGE - 1).max() <= 1e-4
    assert exact.slope.max() <= 1e-3
    assert (np.diff(exact.constrained_loss) < 0).all()
    assert exact.flow_distance[-1] > 5 * exact.flow_distance[1] > 0  # the flow leaves it


def transfer(exact, t):
    """(I − η∇²L_t) P⊥_t, (p, p)."""
    across = np.eye(exact.u.shape[1]) - np.outer(exact.u[t], exact.u[t])
    return across - ETA * exact.hessian[t] @ across


def test_prediction_is_the_step_form_with_transported_products(tracked, exact):
    """x*_{t+1} = −(1 + ηy*_t)x*_t and y*_{t+1} = η Σ_s β_{s→t} (δ_s² − x*_s²)/2, with the start carried along."""
    data, _ = tracked
    x, y = [exact.x[0]], [exact.y[0]]
    carried = exact.v[0]  # Σ of what the start and every earlier step left, transported to t + 1
    for t in range(oracles.STEPS - 1):
        carried = transfer(exact, t) @ carried + ETA * (exact.delta_squared[t] - x[t] ** 2) / 2 * exact.across[t]
        x.append(-(1 + ETA * y[t]) * x[t])
        y.append(exact.across[t + 1] @ carried)
    x, y = np.array(x), np.array(y)
    # The library has S_t for 2/η (they differ by 1e-5 of it) and the bend made for ηδ²/2 (2e-3 of it).
    np.testing.assert_allclose(data.predicted_x, x, atol=5e-3 * np.abs(x).max())
    np.testing.assert_allclose(data.predicted_y, y, atol=5e-3 * np.abs(y).max())
    assert np.ptp(y) > 0.1  # half a cycle: it is no small matter
    np.testing.assert_allclose(data.predicted_loss, exact.constrained_loss + x**2 / ETA, rtol=5e-3)
    sharpness = EDGE + y + exact.sharpness_slope * x
    np.testing.assert_allclose(data.predicted_sharpness, sharpness, atol=1e-3 * EDGE)


def test_predictions_are_compared_with_descent(network, tracked, exact):
    data, states = tracked
    dense = network[2]
    assert data.predicting.values.tolist() == [0] + [1] * (oracles.STEPS - 1)
    for t in range(1, oracles.STEPS):
        state, u = states[t], exact.u[t]
        carried = np.asarray(state.predicted.carried)
        v = carried + (float(state.predicted.x) - u @ carried) * u
        miss = np.linalg.norm(v - exact.v[t])
        np.testing.assert_allclose(data.predicted_error[t], miss, rtol=1e-2, atol=2e-5)
        np.testing.assert_allclose(data.predicted_distance[t], np.linalg.norm(v), rtol=1e-2)
        there = np.asarray(state.constrained.theta) + v
        np.testing.assert_allclose(data.predicted_true_loss[t], dense.loss(there), rtol=1e-4)
        general = np.asarray(state.generalized)
        np.testing.assert_allclose(data.generalized_error[t], np.linalg.norm(general - exact.v[t]), rtol=1e-9)
        np.testing.assert_allclose(data.generalized_distance[t], np.linalg.norm(general), rtol=1e-9)
    delta, epsilon = exact.delta_squared.min() ** 0.5, ETA * exact.alpha.max() ** 0.5
    assert data.predicted_error.max() <= 3 * epsilon * delta  # the coupling theorem's order


def test_generalized_prediction_against_dense(network, tracked, exact):
    """One step is v ← v − η [½(x² − δ²)∇S⊥ + ∇²L v⊥ + u (u·∇L(θ† + x u)) + x y u]."""
    _, _, dense = network
    data, _ = tracked
    v, series = exact.v[0], []
    for t in range(oracles.STEPS):
        u, across, theta = exact.u[t], exact.across[t], exact.theta[t]
        x, y = u @ v, across @ (v - (u @ v) * u)
        loss = dense.loss(theta + x * u) + x * x * y / 2
        series.append((x, y, loss, exact.constrained_sharpness[t] + y + exact.sharpness_slope[t] * x))
        force = (x * x - exact.delta_squared[t]) / 2 * across + exact.hessian[t] @ (v - x * u)
        force = force + (u @ np.asarray(dense.gradient(theta + x * u)) + x * y) * u
        v = v - ETA * force
    x, y, loss, sharpness = np.array(series).T
    np.testing.assert_allclose(data.generalized_x, x, atol=5e-3 * np.abs(x).max())
    np.testing.assert_allclose(data.generalized_y, y, atol=5e-3 * np.abs(y).max())
    np.testing.assert_allclose(data.generalized_loss, loss, rtol=5e-3)
    np.testing.assert_allclose(data.generalized_sharpness, sharpness, atol=1e-3 * EDGE)


def test_transported_products_against_dense(tracked, exact):
    """β_{s→t}/β_s with the last s a multiple of the period, recorded at t + 1, whose ∇S⊥ it is taken with."""
    data, _ = tracked
    assert float(data.transport[0]) == pytest.approx(1, rel=1e-12)
    for s in range(0, oracles.STEPS - 1, oracles.TRANSPORT):
        moved = exact.across[s]
        for t in range(s, min(s + oracles.TRANSPORT, oracles.STEPS - 1)):
            expected = exact.across[t + 1] @ moved / exact.beta[s]
            np.testing.assert_allclose(data.transport[t + 1], expected, rtol=20 * tilt(tracked, exact))
            moved = transfer(exact, t + 1) @ moved
    assert data.transport.min() < 0.9  # it decays


# --- the toy, in closed form ------------------------------------------------------------------------------------------

TOY = oracles.Toy(alpha=25.0, beta=4.0, drift=1.5)  # ε = .1: a cycle in fifty steps
UP = jnp.array([1.0, 0.0, 0.0])
TOY_STEPS = 100
TOY_OPTIONS = Options(restart=True, kick=0.5)


@pytest.fixture(scope="module")
def toy_objective(toy_objective):
    return dataclasses.replace(toy_objective, batch=TOY.constants)


def follow(objective, theta, steps=TOY_STEPS, **io):
    options = dict(steps=steps, options=TOY_OPTIONS, progress=False) | io
    return track_from(objective, jnp.asarray(theta), UP, TOY.learning_rate, **options)


@pytest.fixture(scope="module")
def toy(toy_objective):
    return follow(toy_objective, [0.0, 0.0, 0.0])


def test_toy_constrained_trajectory_slides_along_the_edge(toy):
    times = TOY.learning_rate * np.arange(TOY_STEPS)
    for name, value in {
        "constrained_loss": -(TOY.drift**2) * times,
        "constrained_sharpness": 100.0,
        "alpha": TOY.alpha,
        "beta": TOY.beta,
        "delta_squared": 2 * TOY.alpha / TOY.beta,
        "gradient_norm": np.sqrt(TOY.alpha**2 / TOY.beta + TOY.drift**2),
        "gamma": 1 / np.sqrt(1 + TOY.drift**2 * TOY.beta / TOY.alpha**2),
        "correction": TOY.learning_rate * TOY.alpha / TOY.beta,
        "sharpness_slope": 0.0,
        "violation": 0.0,
        "slope": 0.0,
        "residual": 0.0,
        "active": 1.0,
        "rounds": 0.0,
    }.items():
        np.testing.assert_allclose(toy[name], value, atol=1e-10, rtol=1e-10, err_msg=name)


def test_toy_descent_and_prediction_are_the_reduced_map(toy):
    eta, root, z = TOY.learning_rate, TOY.beta**0.5, TOY.learning_rate * TOY.drift * np.arange(TOY_STEPS)
    x, y = np.zeros((2, TOY_STEPS))
    x[0] = 0.5 * (2 * TOY.alpha / TOY.beta) ** 0.5
    for t in range(TOY_STEPS - 1):
        x[t + 1], y[t + 1] = -(1 + eta * y[t]) * x[t], y[t] + eta * (TOY.alpha - TOY.beta * x[t] ** 2 / 2)
    assert np.ptp(y) > np.sqrt(TOY.alpha)
    points = [np.array(p) for p in zip(x, y / root, z)]
    sharpness = [TOY.sharpness(p) for p in points]
    for name, value in {
        "x": x,
        "y": y,
        "distance": np.hypot(x, y / root),
        "gd_loss": [float(TOY.loss(p)) for p in points],
        "gd_gradient_norm": [np.linalg.norm(TOY.gradient(p)) for p in points],
        "sharpness_linear": 100 + y,
        "sharpness_linear_perpendicular": 100 + y,
        "predicted_x": x,
        "predicted_y": y,
        "predicted_distance": np.hypot(x, y / root),
        "predicted_error": 0.0,
        "predicted_loss": -TOY.drift * z + x**2 / eta,
        "predicted_true_loss": [float(TOY.loss(p)) for p in points],  # here the prediction is gradient descent
        "predicted_sharpness": 100 + y,
    }.items():
        np.testing.assert_allclose(toy[name], value, rtol=1e-8, atol=1e-8, err_msg=name)
    miss = sharpness - toy.gd_sharpness.values  # of second order in the residual of u: λ₂ is far below
    assert (miss >= -1e-9).all()
    np.testing.assert_array_less(miss, toy.gd_sharpness_residual.values**2 / 90 + 1e-9)


def test_toy_predictions_restart_once_a_cycle(toy):
    """Off for one step at the start and wherever y has just turned positive; x is always above start · δ here."""
    turned = (toy.y.values[:-1] < 0) & (toy.y.values[1:] >= 0)
    off = np.concatenate([[True], [False], turned[:-1]])
    assert turned.sum() >= 1
    np.testing.assert_array_equal(toy.predicting, ~off)


def test_toy_flow(toy):
    """The flow starts at θ, not kicked: x = 0, y = ατ/√β, z = gτ."""
    times = TOY.learning_rate * np.arange(TOY_STEPS)
    np.testing.assert_allclose(toy.flow_loss, -(TOY.alpha**2 / TOY.beta + TOY.drift**2) * times, atol=1e-8)
    np.testing.assert_allclose(toy.flow_distance, TOY.alpha / TOY.beta**0.5 * times, atol=1e-8)
    np.testing.assert_allclose(toy.flow_sharpness, 100 + TOY.alpha * times[:: DEFAULT.chunk], rtol=1e-8)
    assert toy.interval.values.tolist() == list(range(0, TOY_STEPS, DEFAULT.chunk))


def test_what_was_not_asked_for_is_not_there(toy, tracked):
    extra = {"generalized_x", "transport", "rho3"}
    assert not extra & set(toy.variables)
    assert extra <= set(tracked[0].variables)
    assert set(tracked[0].sizes) == {"t", "interval", "stride", "pair", "offset"}
    curves = ("gd", "flow", "constrained", "predicted")
    ends = {f"ended_{curve}": -1 for curve in curves} | {f"end_{curve}": "recorded to the end" for curve in curves}
    assert toy.attrs == ends | {
        "single_direction_until": -1, "learning_rate": TOY.learning_rate, "edge": 100.0,
        "start_projection": ProjectionStatus.ON_BOUNDARY.message,
    }  # fmt: skip


def test_without_the_flow(toy_objective, toy):
    data = follow(toy_objective, [0.0, 0.0, 0.0], steps=25, options=TOY_OPTIONS._replace(flow=False))
    assert not [name for name in data.variables if str(name).startswith("flow")]
    assert "ended_flow" not in data.attrs
    np.testing.assert_allclose(data.gd_loss, toy.gd_loss[:25], rtol=1e-10, atol=1e-10)


def test_a_curve_that_ends_does_not_end_the_run(toy_objective):
    """From far up the wall one step of gradient descent turns the valley into a ridge; the others go on."""
    data = follow(toy_objective, [60.0, 0.0, 0.0], steps=50)
    end = data.attrs["ended_gd"]
    assert 0 < end < 50
    assert data.attrs["end_gd"] == f"its loss is not finite from step {end} on"
    assert np.isfinite(data.gd_loss[:end]).all()
    assert not np.isfinite(data.gd_loss[end:]).any()
    for curve in ("constrained", "flow"):
        assert data.attrs[f"ended_{curve}"] == -1
        assert np.isfinite(data[f"{curve}_loss"]).all()
    assert data.constrained_sharpness.max() <= 100 * (1 + 1e-4)


def test_a_run_cut_off_goes_on_to_the_same_numbers(toy_objective, toy):
    kept = {}

    def save(state, records):
        kept["last"] = state, {name: list(values) for name, values in records.items()}
        if int(state[0].step) == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(toy_objective, [0.0, 0.0, 0.0], save=save)
    resumed = follow(toy_objective, [0.0, 0.0, 0.0], restore=lambda _: kept["last"])
    assert int(kept["last"][0][0].step) == 50
    assert set(resumed.variables) == set(toy.variables)
    for name in toy.variables:
        np.testing.assert_array_equal(resumed[name], toy[name], err_msg=str(name))


def test_the_progress_bar_names_step_sharpness_violation_and_time_left(toy_objective, capsys):
    follow(toy_objective, [0.0, 0.0, 0.0], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "tracking" in err
    assert "50/100" in err
    assert "S† = 100 of 100" in err
    assert "violation" in err
    follow(toy_objective, [0.0, 0.0, 0.0])
    assert capsys.readouterr() == ("", "")


def test_a_loss_of_one_parameter_has_no_second_eigenvalue():
    objective = Objective.create(lambda t: 50 * t[0] ** 2 + t[0] ** 3, jnp.zeros(1))
    data = track_from(objective, jnp.zeros(1), jnp.ones(1), 0.02, steps=3, progress=False)
    assert data.sizes["pair"] == 1
    assert data.attrs["single_direction_until"] == -1


def test_where_one_direction_ends_is_marked():
    records = {
        "gd_loss": [np.array([1.0, np.nan, 3.0])],
        "eigenvalues": [np.array([100.0, second, 1.0]) for second in (50.0, 94.9, 95.1, 80.0)],
    }
    data = dataset(records, GradientDescent(0.02), Options(chunk=25, strided=50))
    assert data.stride.values.tolist() == [0, 50, 100, 150]
    assert data.attrs["single_direction_until"] == 100  # the first stride with λ₂ ≥ 1.9/η
    plain = dataset(records, GradientDescent(0.02), Options(chunk=25))  # without strided measurements, every chunk
    assert plain.stride.values.tolist() == [0, 25, 50, 75]
    assert plain.attrs["single_direction_until"] == 50
    assert data.attrs["ended_gd"] == 1


def test_a_block_without_a_margin_says_so():
    """The last of the most directions within 5 % of the edge; where the block is smaller there is none (NaN)."""
    values = np.array([[100.0, 99.0, np.nan], [100.0, 100.0, 90.0], [100.0, 100.0, 96.0]])
    loss = {"constrained_loss": [np.ones(3)]}
    full, roomy = (
        dataset(loss | {"block_eigenvalues": [part]}, GradientDescent(0.02)) for part in (values, values[[0, 1, 1]])
    )
    assert full.end_constrained == "recorded to the end; from step 2 on no direction has a margin: take more"
    assert roomy.end_constrained == "recorded to the end"


def test_a_constrained_trajectory_that_violates_its_constraint_says_so():
    """A quadratic above 2/η: no direction lowers its sharpness, at the start and ever after."""
    objective = Objective.create(lambda p: 3 * p[0] ** 2 + p[1] ** 2 / 2 - p[1], jnp.ones(2))
    data = run(objective, jnp.array([1.0, 2.0]), 0.5, steps=30, edge_steps=10, progress=False)
    assert data.attrs["status"].startswith("the sharpness is above its edge at the start")
    assert data.attrs["start_projection"] == ProjectionStatus.NO_DIRECTION.message
    words = "recorded to the end, but it violates S ≤ 2/η by up to 50.0% at 30 of 30 steps: repair did not suffice"
    assert data.attrs["end_constrained"] == words
    # And nothing is lost meanwhile: gradient descent is the map x ↦ −2x, its prediction the same.
    steps = np.arange(30)
    np.testing.assert_allclose(data.gd_loss, 3 * 4.0**steps + (1 + 0.5**steps) ** 2 / 2 - 1 - 0.5**steps, rtol=1e-9)
    np.testing.assert_allclose(data.gd_sharpness, 6, rtol=1e-9)
    assert data.attrs["ended_gd"] == data.attrs["ended_predicted"] == -1
    assert all(np.isfinite(values).all() for values in data.data_vars.values() if values.dtype.kind == "f")


@pytest.mark.parametrize(
    ("theta", "rate", "steps", "options", "message"),
    [
        ([0.0] * 3, 0.0, 5, {}, "learning_rate must be positive and finite, got 0.0"),
        ([0.0] * 3, -0.02, 5, {}, "got -0.02"),
        ([0.0] * 3, float("nan"), 5, {}, "got nan"),
        ([0.0] * 3, 0.02, 0, {}, "steps must be at least 1, got 0"),
        ([0.0] * 4, 0.02, 5, {}, r"theta must have shape \(3,\), got \(4,\)"),
        ([0.0] * 3, 0.02, 5, {"strided": 7}, "strided must be a multiple of chunk=25, got 7"),
        ([0.0] * 3, 0.02, 5, {"chunk": 0}, "chunk=0"),
        ([float("nan")] * 3, 0.02, 5, {}, "the loss at theta must be finite with finite derivatives"),
    ],
)
def test_bad_arguments_are_named(toy_objective, theta, rate, steps, options, message):
    with pytest.raises(ValueError, match=message):
        track_from(
            toy_objective, jnp.array(theta), jnp.ones(len(theta)), rate, steps=steps, progress=False,
            options=TOY_OPTIONS._replace(**options),
        )  # fmt: skip


# --- both together, on a pytree ---------------------------------------------------------------------------------------


def loss_of_pytree(params, batch):
    return oracles.toy_loss(jnp.concatenate([params["xy"], params["z"][None]]), batch)


def test_track_takes_any_pytree(toy):
    params = {"xy": jnp.array([0.0, -10.1 / 2]), "z": jnp.zeros(())}
    data = eoslib.track(
        loss_of_pytree, params, TOY.constants, learning_rate=TOY.learning_rate, steps=25, edge_steps=500,
        options=TOY_OPTIONS, progress=False,
    )  # fmt: skip
    assert data.attrs["instability_step"] == 21
    assert data.attrs["status"].startswith("reached")
    assert data.sizes["approach_step"] == 22
    np.testing.assert_allclose(data.constrained_sharpness, 100, rtol=1e-6)
    np.testing.assert_allclose(data.beta, TOY.beta, rtol=1e-6)
    assert data.check_step.values[-1] == 21
    below = eoslib.track(
        loss_of_pytree, params, TOY.constants, learning_rate=TOY.learning_rate, steps=25, edge_steps=5, progress=False
    )
    assert below.attrs["status"].startswith("not reached")
    assert "gd_loss" not in below
    assert below.sizes["approach_step"] == 6
    with pytest.raises(ValueError, match="floating-point arrays only"):
        eoslib.track(loss_of_pytree, jax.tree.map(lambda _: 1, params), TOY.constants, learning_rate=0.1, steps=5)
