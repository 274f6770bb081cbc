"""The explorer of recorded runs: its export against the run files, its brush by mouse and keyboard, its numbers."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from browsing import PHONE, settle

from selfstab.theory import reduced

EXTENSION = Path(__file__).resolve().parents[2] / "book" / "_ext" / "explorer.py"
READY = "document.querySelector('#explorer[data-ready]') !== null"


@pytest.fixture(scope="module")
def explorer():
    """The extension's module, which is no part of a package."""
    specification = importlib.util.spec_from_file_location("explorer", EXTENSION)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def toy(steps: int = 700) -> xr.Dataset:
    """A run file's variables for the toy loss, whose trajectory is known: δ = √2, 2/η = 40."""
    x, y = (
        np.asarray(each)[:steps].astype(float)
        for each in reduced.iterate(0.01, -1.5, steps, learning_rate=0.05, alpha=1.0, beta=1.0, damping=0.005)
    )
    series = {"x": x, "y": y, "gd_sharpness": 40 + y, "gd_loss": x**2 / 0.05, "delta_squared": np.full(steps, 2.0)}
    data = xr.Dataset({name: ("t", values) for name, values in series.items()}, coords={"t": np.arange(steps)})
    data["flow_sharpness"] = ("interval", np.linspace(40, 60, steps // 25))
    data = data.assign_coords(interval=np.arange(steps // 25) * 25)
    data.attrs |= {"edge": 40.0}
    return data


def test_export_keeps_the_numbers(explorer):
    data = toy()
    told = json.loads(json.dumps(explorer.export(data)))
    assert told["steps"] == 700
    assert told["edge"] == 40
    assert set(told["series"]) == {"x", "gd_sharpness", "gd_loss", "flow_sharpness"}
    # five significant digits: half a unit of the last is 5e-5 of the value at most
    np.testing.assert_allclose(told["series"]["x"]["values"], data["x"], rtol=5e-5)
    assert told["series"]["x"]["every"] == 1
    assert told["series"]["flow_sharpness"]["every"] == 25
    np.testing.assert_allclose(told["delta"], math.sqrt(2), rtol=5e-5)


def test_export_says_where_there_is_nothing(explorer):
    """A curve that ended and an inactive constraint become null, never a number."""
    data = toy()
    data["gd_loss"][600:] = np.nan
    data["delta_squared"][650:] = -1.0
    told = explorer.export(data)
    assert told["series"]["gd_loss"]["values"][599] is not None
    assert told["series"]["gd_loss"]["values"][600:] == [None] * 100
    assert told["delta"][650:] == [None] * 50


def test_a_prediction_that_has_left_for_good_ends_there(explorer):
    data = toy()
    data["predicted_x"] = data["x"] * np.where(np.arange(700) < 300, 1.0, 1e20)
    data["predicted_loss"] = data["predicted_x"] ** 2 / 0.05
    assert explorer.left(data, "generalized") == 700
    gone = explorer.left(data, "predicted")
    assert 300 <= gone <= 301
    told = explorer.export(data)["series"]
    for name in ("predicted_x", "predicted_loss"):
        assert told[name]["values"][gone - 1] is not None
        assert told[name]["values"][gone:] == [None] * (700 - gone)
    assert None not in told["x"]["values"]


def test_cycles_begin_where_y_turns_from_negative_to_non_negative(explorer):
    data = toy()
    y = data["y"].values
    expected = [0] + [t for t in range(1, len(y)) if y[t - 1] < 0 <= y[t]]
    assert len(expected) >= 3
    assert explorer.export(data)["cycles"] == expected
    data["y"][expected[2] :] = np.nan
    assert explorer.export(data)["cycles"] == expected[:2]
    data["y"][:] = -1.0
    assert explorer.export(data)["cycles"] == [0]


def test_export_passes_a_variable_s_own_words_where_the_file_has_them(explorer):
    data = toy()
    words = {"long_name": "sharpness of gradient descent", "units": "curvature", "symbol": "S(θ)"}
    data["gd_sharpness"].attrs |= words | {"source": "elsewhere"}
    series = explorer.export(data)["series"]
    assert {word: series["gd_sharpness"].get(word) for word in words} == words
    assert set(series["gd_sharpness"]) - set(words) == set(series["x"]) == {"every", "values"}


# ---------------------------------------------------------------------------------------------------------- the page


@pytest.fixture
def page_of(open_page, site):
    assert (site / "explorer.html").is_file(), "the built book has no explorer page"
    assert list((site / "_static" / "runs").glob("*.js")), "the explorer has no run to show"

    def open_(**context):
        page = open_page("explorer.html", **({"reduced_motion": "reduce"} | context))
        page.wait_for_function(READY)
        page.locator("#exp-panels").scroll_into_view_if_needed()
        settle(page)
        return page

    return open_


def window(page) -> tuple[int, int]:
    settle(page)
    return tuple(page.evaluate("() => [eosExplorer.begin, eosExplorer.end]"))


def ink(page) -> str:
    settle(page)
    return "".join(page.locator("#exp-panels canvas").evaluate_all("all => all.map((each) => each.toDataURL())"))


def place(page, plot: str, t: int) -> tuple[float, float]:
    """Where a plot of the page shows the step t, halfway up, in the window's pixels."""
    page.locator("#exp-strip" if plot == "strip" else "#exp-panels").scroll_into_view_if_needed()
    settle(page)
    return tuple(
        page.evaluate(
            """([plot, t]) => {
              const box = plot.split(".").reduce((of, name) => of[name], eosExplorer);
              const { left, top, height } = box.over.getBoundingClientRect();
              return [left + box.valToPos(t, "x"), top + height / 2];
            }""",
            [plot, t],
        )
    )


def drag(page, plot: str, start: int, goal: int) -> None:
    page.mouse.move(*place(page, plot, start))
    page.mouse.down()
    page.mouse.move(*place(page, plot, goal), steps=5)
    page.mouse.up()


def test_opens_from_a_file_with_the_whole_run(page_of):
    page = page_of()
    steps = page.evaluate("() => eosExplorer.data.steps")
    assert window(page) == (0, steps - 1)
    assert not page.complaints.external
    assert not page.complaints.errors
    assert "scale" in page.locator(".exp-provenance").inner_text()
    for name in ("loss", "sharpness", "x", "distance", "error"):
        assert page.evaluate("(id) => eosExplorer.panels.some((panel) => panel.id === id)", name)


def test_brush_by_mouse(page_of):
    """A drag over the panels chooses the window it covers, and everything is drawn anew; a double click undoes it."""
    page = page_of()
    whole, before = window(page), ink(page)
    drag(page, "plots.0", 40, 100)
    begin, end = window(page)
    assert abs(begin - 40) <= 1
    assert abs(end - 100) <= 1
    assert ink(page) != before
    page.mouse.dblclick(*place(page, "plots.0", 70))
    assert window(page) == whole


def test_window_by_keyboard(page_of):
    page = page_of()
    begin, end = window(page)
    page.focus("#exp-from")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.focus("#exp-to")
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    assert window(page) == (begin + 3, end - 2)
    page.keyboard.press("Home")  # the window never closes: the other end gives way, and eight steps remain
    first, last = window(page)
    assert last - first == 8
    page.focus("#exp-all")
    page.keyboard.press("Enter")
    assert window(page) == (begin, end)
    page.wait_for_function("document.getElementById('exp-live').textContent.startsWith('Window')")


def test_strip_moves_the_window(page_of):
    page = page_of()
    page.evaluate("() => eosExplorer.look(0, 40)")
    drag(page, "strip", 20, 60)
    begin, end = window(page)
    assert end - begin == 40
    assert abs(begin - 40) <= 2


def test_first_shown_is_a_run_that_the_prediction_follows(page_of):
    values = page_of().evaluate("() => eosExplorer.data.series.predicted_x.values")
    assert values[-1] is not None


def test_table_reads_the_run(page_of):
    page = page_of()
    page.evaluate("() => eosExplorer.point(17)")
    settle(page)
    shown = page.eval_on_selector_all(
        "[data-curve]", "cells => Object.fromEntries(cells.map((cell) => [cell.dataset.curve, cell.dataset.value]))"
    )
    data = page.evaluate("() => eosExplorer.data.series")
    for name in ("gd_loss", "gd_sharpness", "x", "distance", "predicted_x", "constrained_loss"):
        assert float(shown[name]) == data[name]["values"][17]
    page.focus("#exp-step")
    page.keyboard.press("ArrowRight")
    settle(page)
    assert float(page.get_attribute("[data-curve=x]", "data-value")) == data["x"]["values"][18]


def test_averages_of_the_window(page_of):
    page = page_of()
    page.evaluate("() => eosExplorer.look(20, 90)")
    settle(page)
    data = page.evaluate("() => eosExplorer.data")
    x, delta = np.array(data["series"]["x"]["values"][20:91]), np.array(data["delta"][20:91])
    square = float(page.get_attribute("#exp-sum-square", "data-value"))
    assert square == pytest.approx(float(np.mean((x / delta) ** 2)), rel=1e-9)
    excess = float(page.get_attribute("#exp-sum-excess", "data-value"))
    sharpness = np.array(data["series"]["gd_sharpness"]["values"][20:91])
    assert excess == pytest.approx(float(np.mean(sharpness)) - data["edge"], rel=1e-9)


def test_curves_and_means_can_be_switched(page_of):
    page = page_of()
    before = ink(page)
    page.click("[data-who=flow]")
    with_flow = ink(page)
    assert with_flow != before
    assert page.get_attribute("[data-who=flow]", "aria-pressed") == "true"
    page.click("#exp-mean")
    with_mean = ink(page)
    assert with_mean != with_flow
    page.evaluate("() => { document.documentElement.dataset.theme = 'dark'; }")
    repainted = """(seen) => !seen.includes(
      [...document.querySelectorAll("#exp-panels canvas")].map((each) => each.toDataURL()).join(""))"""
    page.wait_for_function(repainted, arg=[before, with_flow, with_mean])


def test_every_listed_run_opens(page_of):
    page = page_of()
    keys = page.evaluate("() => eosExplorer.runs.map((run) => run.key)")
    for index, key in enumerate(keys):
        page.select_option("#exp-run", str(index))
        page.wait_for_function("(key) => document.getElementById('explorer').dataset.ready === key", arg=key)
        assert page.evaluate("() => eosExplorer.data.steps") > 1
    assert not page.complaints.errors


def test_on_a_phone_everything_is_inside(page_of):
    page = page_of(viewport=PHONE)
    assert page.evaluate("() => document.documentElement.scrollWidth") == PHONE["width"]
    boxes = page.locator("#explorer > *").evaluate_all("all => all.map((each) => each.getBoundingClientRect().right)")
    assert max(boxes) <= PHONE["width"]


def test_brush_by_finger(page_of):
    """A finger's drag chooses a window too, although uPlot hears the mouse alone."""
    page = page_of(viewport=PHONE, has_touch=True)
    start, goal = (
        place(page, "plots.0", page.evaluate("(part) => part * eosExplorer.top", part)) for part in (0.2, 0.6)
    )
    fingers = page.context.new_cdp_session(page)
    for kind, x in [
        ("touchStart", start[0]),
        *(("touchMove", x) for x in np.linspace(start[0], goal[0], 6)),
        ("touchEnd", 0),
    ]:
        points = [] if kind == "touchEnd" else [{"x": float(x), "y": start[1]}]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    top = page.evaluate("() => eosExplorer.top")
    assert window(page) == pytest.approx((0.2 * top, 0.6 * top), abs=2)
