"""The figures of the chapter on optimizers draw what they say."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from selfstab.figures import edges
from selfstab.page.points import plotted_points

T = np.arange(6.0)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def drawn(fig):
    """Series (n, 2) of a figure by panel, in the order drawn."""
    found = {}
    for panel, curve, x, y in plotted_points(fig):
        found.setdefault(panel, {}).setdefault(curve, []).append((x, y))
    return {panel: [np.array(points) for points in curves.values()] for panel, curves in found.items()}


def test_roots_are_drawn_with_their_edges():
    curves = {"gradient descent": (T + 0.1, T / 5), "heavy ball": (T + 0.1, T / 4)}
    fig = edges.roots(curves, {"gradient descent": 2.0, "heavy ball": 3.6})
    (panel,) = drawn(fig).values()
    dots = [series for series in panel if len(series) == 1]
    assert [dot[0].tolist() for dot in dots] == [[2.0, 1.0], [3.6, 1.0]]
    assert {"2", "3.6"} <= {text.get_text() for text in fig.axes[0].texts}


def test_the_first_measurement_of_a_preconditioner_is_left_out():
    fig = edges.adaptive({("Adam", 0): (T, 1 + T, 10 + T), ("RMSProp", 1): (T, 2 + T, 20 + T)})
    held, free = drawn(fig).values()
    assert [len(series) for series in held] == [5, 5]
    assert [len(series) for series in free] == [6, 6]


def test_sam_is_drawn_over_its_own_edge():
    fig = edges.sam_edge({0: (T, 4 + T, 2 + 0 * T), 1: (T, 3 + T, 2 + 0 * T)}, (T, 50 + T), 100.0)
    lower, ratio = drawn(fig).values()
    assert len(lower) == 3
    np.testing.assert_allclose(ratio[0][:, 1], (4 + T) / 2)


def test_wrong_forces_stand_beside_the_fall():
    falls = {0.5: (1 + 0 * T, -T, -T), 1.5: (1 + 0 * T, -2 * T, -2 * T)}
    fig = edges.bounce(falls, {"flat": -T / 2, "all": -4 * T})
    texts = {text.get_text().strip() for text in fig.axes[1].texts}
    assert {"flat", "all", "dashed: predicted"} <= texts
    low, high = fig.axes[1].get_ylim()
    assert -12 < low < -10 < high


def test_growth_is_drawn_at_each_momentum():
    fig = edges.prolonged({0.0: (T, 1 + T), 0.8: (T, 2 + T)}, {0.0: 1.0, 0.8: 9.1}, 0.001)
    *_, growth = drawn(fig).values()
    assert [series[0].tolist() for series in growth if len(series) == 1] == [[0.0, 1.0], [0.8, 9.1]]
