"""What the chapters' figures share: texts in their curves' colors, shaded steps, tables, and notes on recorded runs."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from selfstab.page import COLORS, Page, draw, page


@pytest.fixture
def ax():
    yield plt.subplots()[1]
    plt.close("all")


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """A page, and the Markdown that it shows."""
    monkeypatch.setenv("EOSLIB_RESULTS", str(tmp_path))
    said = []
    monkeypatch.setattr(Page, "say", lambda self, text: said.append(text))
    monkeypatch.setattr(page, "display", lambda *args, **options: None)
    yield Page("01_x", scale="test"), said
    plt.close("all")


def run_with(scale="paper", until=-1, steps=10):
    words = {"scale": scale, "key": "x--eta1--seed0", "seed": 0, "device": "a CPU", "threads": 2, "seconds": 120.0}
    words |= {"versions": "{}", "single_direction_until": until, "commit": "0123", "library_digest": "4567"}
    words |= {"data_hash": "89ab", "date": "today"}
    words |= {"learning_rate": 0.1}  # ε = .1: cycles of 44 steps
    return xr.Dataset({"alpha": ("t", np.ones(steps))}, {"t": np.arange(steps)}, words)


def test_a_text_stands_where_its_frame_says(ax):
    ax.set(xlim=(0, 10), ylim=(0, 100))
    frames = {"data": (5, 50), "axes": (0.5, 0.5), "xaxis": (5, 0.5), "yaxis": (0.5, 50)}
    for frame, (x, y) in frames.items():
        draw.write(ax, x, y, frame, "gd", frame=frame)
    places = [text.get_transform().transform(text.get_position()) for text in ax.texts]
    assert np.allclose(places, places[0])
    assert {text.get_color() for text in ax.texts} == {COLORS["gd"]}


def test_a_color_key_goes_down(ax):
    draw.color_key(ax, [("first", "gd"), ("second", "#123456")], y=0.9, gap=0.1)
    first, second = ax.texts
    assert (first.get_color(), second.get_color()) == (COLORS["gd"], "#123456")
    assert first.get_position() == (0.98, 0.9)
    assert second.get_position() == pytest.approx((0.98, 0.8))


@pytest.mark.parametrize(("until", "shaded"), [(-1, None), (0, (0, 9)), (4, (4, 9)), (9, None)])
def test_two_directions_are_shaded_where_there_are_two(ax, until, shaded):
    draw.shade_two_directions([ax], run_with(until=until))
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches]
    assert spans == ([shaded] if shaded else [])


@pytest.mark.parametrize("until", [-1, 4])
def test_a_caption_says_where_several_directions_are_continued(shown, until):
    """By the shading alone: no chapter writes it, and a figure without such steps does not have it."""
    there, _ = shown
    fig, axes = plt.subplots(1, 2)
    draw.shade_two_directions(axes[1:], run_with(until=until))
    draw.shade_steps(axes[:1], 0, 3)
    there.figure(fig, "one", caption="One two three four five.", alt="One two three four five.")
    assert (draw.CONTINUED in there.figures[0]["caption"]) == (until == 4)


def test_two_step_means_lack_what_alternates():
    assert np.array_equal(draw.two_step_means(3 + (-1.0) ** np.arange(5)), np.full(4, 3.0))


def test_a_table_is_markdown(shown):
    shown[0].table("a | \\|b\\|", [(1, "x"), ("", "*y*")], before="Above.", after="Below.")
    assert shown[1] == ["Above.\n\n| a | \\|b\\| |\n| --- | --- |\n| 1 | x |\n|  | *y* |\n\nBelow."]


@pytest.mark.parametrize(("head", "row"), [("a | $|b|$", (1, 2)), ("a | b", (1, "|x|")), ("a | b", (1,)), ("a", "12")])
def test_a_table_that_would_not_be_one_is_refused(shown, head, row):
    """A ``|`` within a cell, or a row of another length, would show as raw text."""
    with pytest.raises(ValueError, match="cells without a '"):
        shown[0].table(head, [row])
    assert not shown[1]


@pytest.mark.parametrize(("scale", "above", "told"), [("test", "test scale, x", 0), ("paper", "recorded, x", 1)])
def test_a_figure_says_which_scale_drew_it(shown, ax, scale, above, told):
    caption, alt = "Nothing is drawn here at all.", "An empty pair of axes here."
    shown[0].figure(ax.figure, "empty", caption=caption, alt=alt, runs=[run_with(scale)], above=", x")
    assert ax.figure.get_suptitle() == above
    assert shown[0].figures[0]["caption"].count("Recorded: 10 steps") == told
    assert shown[0].figures[0]["caption"].count("A pilot, of less than two cycles.") == told
