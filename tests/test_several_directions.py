"""What is read off runs of several directions, and that their figures draw what they say."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from selfstab.figures import directions
from selfstab.page import COLORS
from selfstab.page.points import plotted_points
from selfstab.runs import quantities

EDGE, RATE, K, SIZE = 100.0, 0.02, 3, 8


def orthogonal(rng, k=K):
    return np.linalg.qr(rng.normal(size=(k, k)))[0]


@pytest.fixture(scope="module")
def world():
    """A displacement v (T, p), a fixed basis, Σ in it, and the run that records both in bases that turn at random."""
    rng, steps = np.random.default_rng(0), 400
    basis = np.linalg.qr(rng.normal(size=(SIZE, K)))[0].T  # (k, p)
    v, root = rng.normal(size=(steps, SIZE)), rng.normal(size=(K, K))
    sigma, turns = root @ root.T, np.array([orthogonal(rng) for _ in range(steps)])
    vectors = turns @ basis  # (T, k, p)
    overlap = np.einsum("tij,tkj->tik", vectors, np.roll(vectors, 1, axis=0))
    values = np.full((steps, K), 0.8 * EDGE)
    values[:, 0], values[150:, 1] = EDGE, EDGE * (1 - 5e-4)
    predicting = np.ones(steps)
    predicting[[0, 1, 100, 200, 300]] = 0
    trace = np.trace(sigma) * (1 + np.arange(steps) / steps)
    series = {
        "block_size": np.full(steps, K), "covariance_trace": trace, "delta_squared": trace / 2,
        "predicting": predicting,
        "block_epsilon": np.full(steps, np.sqrt(2) * np.pi / 50.5), "constrained_loss": np.linspace(1, 0.5, steps),
        "constrained_sharpness": np.full(steps, EDGE),
        "gd_sharpness": np.full(steps, 1.03 * EDGE), "sharpness_linear": np.full(steps, 1.02 * EDGE),
        "sharpness_linear_perpendicular": np.full(steps, 1.01 * EDGE),
        "predicted_error": np.arange(steps) % 100 / 100.0,
        "distance": np.full(steps, 2.0), "central_distance": np.full(steps, 0.01), "flow_distance": np.arange(steps),
    }  # fmt: skip
    series["gd_loss"] = series["constrained_loss"] + np.where(np.arange(steps) < 150, 1.1, 0.9) * trace / RATE
    series["predicted_true_loss"] = series["gd_loss"]
    run = xr.Dataset({name: ("t", value) for name, value in series.items()}, {"t": np.arange(steps)})
    run["block_x"] = ("t", "direction"), np.einsum("tkp,tp->tk", vectors, v)
    run["block_eigenvalues"] = ("t", "direction"), values
    run["covariance"] = ("t", "direction", "other"), turns @ sigma @ np.swapaxes(turns, 1, 2)
    run["block_overlap"] = ("t", "direction", "other"), overlap
    return v, basis, sigma, turns, run.assign_attrs(edge=EDGE, learning_rate=RATE)


@pytest.mark.parametrize("begin", [0, 37])
def test_one_basis_undoes_the_turns_of_the_block(world, begin):
    """Against the vectors themselves, which no run records."""
    v, basis, sigma, turns, run = world
    xs, sigmas = quantities.in_one_basis(run, slice(begin, begin + 60))
    np.testing.assert_allclose(xs, v[begin : begin + 60] @ (turns[begin] @ basis).T, atol=1e-12)
    np.testing.assert_allclose(sigmas, np.broadcast_to(turns[begin] @ sigma @ turns[begin].T, (60, K, K)), atol=1e-12)


def test_a_block_that_grows_is_not_carried_on(world):
    run = world[-1].copy()
    run["block_size"] = run.block_size + (run.t >= 50)
    with pytest.raises(ValueError, match=r"steps 40 to 60, got sizes \[3 4\]"):
        quantities.in_one_basis(run, slice(40, 60))


def test_windows_begin_with_the_second_cycle_and_do_not_overlap(world):
    assert quantities.windows(world[-1], 100) == [slice(50, 150), slice(150, 250), slice(250, 350)]
    assert quantities.windows(world[-1], 400) == [slice(0, 400)]
    half = world[-1].assign_attrs(learning_rate=RATE / 2)  # as much time, twice as many steps
    assert quantities.windows(half, 100, at=RATE)[0] == slice(50, 250)


def test_mean_excess_is_in_units_of_its_prediction(world):
    parts = quantities.windows(world[-1], 100)
    np.testing.assert_allclose(quantities.excess(world[-1], parts), [1.1, 0.9, 0.9])
    np.testing.assert_allclose(quantities.excess(world[-1], parts, one_direction=True), [2.2, 1.8, 1.8])


def test_critical_counts_what_is_at_the_edge(world):
    assert (quantities.critical(world[-1]) == np.where(np.arange(400) < 150, 1, 2)).all()


def test_stretches_begin_where_the_prediction_is_gradient_descent(world):
    parts = quantities.restarts(world[-1])
    assert parts == [slice(1, 100), slice(100, 200), slice(200, 300), slice(300, 400)]
    np.testing.assert_allclose(quantities.tracking_error(world[-1], parts)[1], np.arange(100) / 200)


def test_a_horizon_ends_with_the_first_error_above_one_half():
    assert directions.horizon(np.array([0, 0.2, 0.6, 0.1, 0.7])) == 2
    assert directions.horizon(np.full(7, 0.5)) == 7


def test_figures_draw_the_numbers(world):
    """Each is drawn, and the one of the excess draws the means of its windows, in the colors of what they are of."""
    run = world[-1]
    xs, sigmas = quantities.in_one_basis(run, slice(0, 60))
    z, errors = np.random.default_rng(1).normal(size=(50, 2)), quantities.tracking_error(run, [slice(100, 200)])
    figures = [
        directions.edge(run),
        directions.edge(run, run),
        directions.cone(xs[:, :2], sigmas[:, :2, :2], {"none": np.ones(2), "some": np.zeros(2)}),
        directions.tracking(run, run, slice(100, 200), {"predicted": ("k", np.array(errors))}),
        directions.matrix({"a": z, "b": z}, (0, 1), np.ones((3, 2))),
        directions.sharpness([run], 100),
        directions.distances(run, run),
    ]
    assert all(len(plotted_points(fig)) > 5 for fig in figures)
    heights = {color: set() for color in COLORS}
    larger = run.assign(gd_loss=run.constrained_loss + 5 * (run.gd_loss - run.constrained_loss))
    fig = directions.excess([([run], run), ([larger], None)], {100: 0.2, 50: 0.1}, quantities.windows)
    assert [ax.get_ylim()[0] for ax in fig.axes] == [0] * 4
    assert [ax.get_ylim()[1] > top for ax, top in zip(fig.axes, (2.2, 2.2, 5.5, 5.5), strict=True)] == [True] * 4
    for _, curve, _, y in plotted_points(fig):
        heights[curve.split()[0]].add(round(y, 6))
    assert (heights["constrained"], heights["single"]) == ({1.1, 0.9, 5.5, 4.5}, {2.2, 1.8})
    plt.close("all")
