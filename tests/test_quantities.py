"""What is derived from a run: its cycles, how long it was followed, its valley and its margin."""

import numpy as np
import pytest
import xarray as xr

from selfstab.runs import quantities


def test_whole_cycles_begin_at_the_first_step_and_end_where_y_turns_positive_again():
    run = xr.Dataset({"y": ("t", [0.1, 2.0, -1.0, -2.0, 0.5, 1.0, -1.0, 0.0, -1.0])})
    assert quantities.cycles(run).tolist() == [0, 4, 7]
    assert quantities.cycles(run.isel(t=slice(3))).tolist() == [0]


def test_the_first_predicted_cycle_begins_where_the_prediction_is_gradient_descent():
    run = xr.Dataset(
        {"y": ("t", [0.1, 2.0, -1.0, -2.0, 0.5, 1.0, -1.0]), "predicting": ("t", [0, 0, 1, 1, 1, 1, 1])},
        {"t": range(7)},
    )
    assert quantities.first_cycle(run) == slice(1, 5)
    assert quantities.first_cycle(run.isel(t=slice(4))) == slice(1, 4)
    starts = [run.assign_attrs(single_direction_until=late) for late in (0, 2, -1)]
    assert [each.sizes["t"] for each in quantities.one_direction(starts)] == [2, 7]
    assert quantities.first_cycle(run.assign(predicting=0 * run.y)) == slice(0, 5)


def test_a_run_of_less_than_two_cycles_is_a_pilot():
    """With η = .1 and α = 2: ε = √2/10, and a cycle lasts 10π steps."""
    run = xr.Dataset({"alpha": ("t", np.full(100, 2.0))}, {"t": range(100)}, {"learning_rate": 0.1})
    assert quantities.lasted(run) == pytest.approx(10 / np.pi)
    assert quantities.lasted(run.assign(alpha=run.alpha.where(run.t < 50, -1.0))) == pytest.approx(5 / np.pi)
    assert [quantities.is_pilot(run.isel(t=slice(n))) for n in (62, 63)] == [True, False]
    assert quantities.lasted(xr.Dataset()) == 0


def test_a_prediction_is_followed_until_it_is_off_by_delta():
    error = [0.0, 0.9, 0.2, 1.1, 0.1, np.nan]
    run = xr.Dataset(
        {"predicted_error": ("t", error), "delta_squared": ("t", np.ones(6)), "alpha": ("t", np.full(6, 2.0))}
        | {"y": ("t", np.ones(6)), "predicting": ("t", [0, 1, 1, 1, 1, 1])},
        {"t": range(6)},
        {"learning_rate": 0.1},
    )
    assert quantities.followed(run) == (3, pytest.approx(0.3 / np.pi))
    late = run.assign(
        predicted_error=run.predicted_error[::-1].drop_vars("t")
    )  # not finite at its start: there it is exact
    assert quantities.followed(late)[0] == 2
    near = run.assign(predicted_error=0 * run.y, generalized_error=("t", [0.0, 0.0, np.nan, 0.0, 0.0, 0.0]))
    assert quantities.followed(near)[0] == 6
    assert quantities.followed(near, "generalized")[0] == 2


def test_the_valley_is_read_off_the_profile_of_the_own_eigenvector():
    """At the second step the profile has collapsed, at the third it is along an eigenvector with a smaller δ."""
    x, d = np.linspace(-5.0, 5.0, 21), np.array([1.0, 2.0, 2.0])
    dims, loss = ("stride", "offset"), 7 * x**2 / 2 + x**3
    at = {"profile_offset": (dims, np.stack([x, 0 * x, x])), "profile": (dims, np.stack([loss, 0 * x, loss]))}
    run = xr.Dataset(at | {"delta_squared": ("t", d**2)}, coords={"t": [0, 1, 2], "stride": [0, 1, 2]})
    assert [quantities.slope_along(run, k) is None for k in range(3)] == [False, True, True]
    np.testing.assert_allclose(quantities.slope_along(run, 0)(d), 7 * d + 3 * d**2)
    np.testing.assert_allclose(quantities.valley(run), [[7.0, np.nan, np.nan]] * 2)


def test_a_block_has_a_margin_until_its_last_direction_comes_near():
    last = np.array([np.nan, 0.8, 0.94, 0.96, 0.9])
    run = xr.Dataset(
        {"block_eigenvalues": (("t", "direction"), np.stack([np.ones(5), last], 1))},
        coords={"t": np.arange(5), "stride": [0, 2, 4]},
        attrs={"edge": 1.0},
    )
    cut = quantities.with_margin(run)
    assert (cut.t.values.tolist(), cut.stride.values.tolist()) == ([0, 1, 2], [0, 2])
    assert quantities.with_margin(run.isel(t=slice(0, 3))).sizes["t"] == 3


def test_a_power_is_fitted_to_what_is_positive_and_finite():
    slope, error, used = quantities.power([0.1, 0.2, 0.4, 0.3, 0.1], [0.03, 0.12, 0.48, float("nan"), 0.0])
    assert (slope, used) == (pytest.approx(2), 3)
    assert error < 1e-6
    slope, error, used = quantities.power([1, 2, 4, 8], [2, 1, 2, 1])
    assert (slope, used) == (pytest.approx(-0.2), 4)  # of 1, 0, 1, 0 on 0, 1, 2, 3
    assert error > 0.1
    for epsilons in ([0.1, 0.2, np.nan], [0.1, 0.1, 0.1]):
        assert all(map(np.isnan, quantities.power(epsilons, [1, 2, 3])[:2]))


def test_a_run_is_cut_where_nothing_sharpens():
    run = xr.Dataset(
        {"alpha": ("t", [2.0, 1.0, 0.0, 1.0]), "rho3": ("stride", [1.0, 1.0])}, {"t": range(4), "stride": [0, 2]}
    )
    assert quantities.sharpening(run).t.values.tolist() == [0, 1]
    assert quantities.sharpening(run).stride.values.tolist() == [0]
    assert quantities.sharpening(run.isel(t=[0, 1, 3])).sizes["t"] == 3
    never = quantities.sharpening(run.assign(alpha=-run.alpha - 1, y=run.alpha))
    assert never.sizes["t"] == 0
    assert len(quantities.cycles(never)) < 2
