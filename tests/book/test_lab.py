"""The self-stabilization lab: its numbers against the library, its controls by keyboard and mouse, its links."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browsing import DESKTOP, PATIENCE, PHONE, settle

from selfstab.page.style import STAGES
from selfstab.theory import matrix, reduced, small_maps

ASSETS = Path(__file__).resolve().parents[2] / "book" / "_assets"

#: (settings, steps): every parameter at work, both signs of α and of the quartic term, none of them diverging.
RUNS = [
    (dict(eta=0.05, alpha=1.0, beta=1.0, x0=0.01, y0=-1.5, damping=0.005, quartic=0.0, kappa=0.0), 800),
    (dict(eta=0.02, alpha=1.0, beta=1.0, x0=1.4e-3, y0=-1.5, damping=0.001, quartic=0.0, kappa=0.0), 1600),
    (dict(eta=0.05, alpha=1.0, beta=1.0, x0=0.3, y0=0.0, damping=0.0, quartic=-0.1, kappa=0.0), 800),
    (dict(eta=0.05, alpha=1.3, beta=2.5, x0=0.4, y0=0.7, damping=0.02, quartic=0.03, kappa=0.3), 400),
    (dict(eta=0.1, alpha=-0.5, beta=0.4, x0=0.02, y0=2.0, damping=0.0, quartic=0.0, kappa=0.0), 200),
    (dict(eta=0.05, alpha=1.0, beta=1.0, x0=0.3, y0=0.0, damping=0.0, quartic=0.0, kappa=6.0), 800),
]


@pytest.fixture(autouse=True)
def double_precision():
    """The browser computes in double precision; so does the library here."""
    with jax.enable_x64(True):
        yield


def library(settings: dict) -> dict:
    """The library's names of the lab's parameters."""
    names = dict(learning_rate="eta", alpha="alpha", beta="beta", damping="damping", quartic="quartic")
    known = {ours: settings[theirs] for ours, theirs in names.items()}
    return known | {"skew": (settings["kappa"] * settings["beta"]) ** 0.5}


@pytest.fixture(scope="module")
def compute(request):
    """``compute(function, *arguments)`` calls lab-dynamics.js, in node where there is one, else in the browser."""
    source = ASSETS / "lab-dynamics.js"
    node = shutil.which("node")
    if node:

        def call(function: str, *arguments):
            code = (
                "const d = require(process.argv[1]), [f, a] = JSON.parse(process.argv[2]);"
                "console.log(JSON.stringify(d[f](...a)))"
            )
            told = subprocess.run(
                [node, "-e", code, str(source), json.dumps([function, arguments])],
                capture_output=True, text=True, timeout=PATIENCE / 1000, check=True,
            )  # fmt: skip
            return json.loads(told.stdout)

        yield call
        return
    page = request.getfixturevalue("browser").new_page()
    page.add_script_tag(path=str(source))
    yield lambda function, *arguments: page.evaluate("([f, a]) => EosDynamics[f](...a)", [function, list(arguments)])
    page.close()


@pytest.mark.parametrize(("settings", "steps"), RUNS)
def test_orbit_equals_the_library(compute, settings, steps):
    """Orbits agree with ``eoslib.reduced.iterate`` to 1e-9, relative to the largest value of the run.

    The map amplifies rounding (1e-16 a step) over these runs, but not by seven decades.
    """
    told = compute("iterate", settings, steps)
    x, y = reduced.iterate(settings["x0"], settings["y0"], steps, **library(settings))
    assert told["status"] == "finished"
    assert len(told["x"]) == steps + 1
    for ours, theirs in ((told["x"], np.asarray(x)), (told["y"], np.asarray(y))):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * np.abs(theirs).max())


def test_one_step_equals_the_library(compute):
    for settings, _ in RUNS:
        for x, y in ((0.3, -0.2), (-2.5, 1.0), (0.0, 0.5)):
            told = compute("step", {"x": x, "y": y}, settings)
            expected = reduced.reduced_step(x, y, **library(settings))
            np.testing.assert_allclose([told["x"], told["y"]], expected, rtol=1e-14, atol=1e-16)


def test_closed_forms_equal_the_library(compute):
    settings = RUNS[3][0]
    eta, alpha, beta = settings["eta"], settings["alpha"], settings["beta"]
    assert compute("radius", settings) == pytest.approx(float(reduced.radius(alpha=alpha, beta=beta)), rel=1e-12)
    assert compute("epsilon", settings) == pytest.approx(
        float(reduced.epsilon(learning_rate=eta, alpha=alpha)), rel=1e-12
    )
    period = float(reduced.small_period(learning_rate=eta, alpha=alpha))
    assert compute("smallPeriod", settings) == pytest.approx(period, rel=1e-12)
    for x0 in (0.7, 1e-2, 1e-6):
        expected = float(reduced.peak_amplitude(x0, alpha=alpha, beta=beta))
        assert compute("peak", x0, 0, settings) == pytest.approx(expected, rel=1e-9)
        level = float(reduced.conserved(x0, 0.4, alpha=alpha, beta=beta))
        assert compute("conserved", x0, 0.4, settings) == pytest.approx(level, rel=1e-12)
    known = {name: library(settings)[name] for name in ("quartic", "skew")}
    threshold = float(reduced.damping_threshold(learning_rate=eta, alpha=alpha, beta=beta, **known))
    assert compute("threshold", settings) == pytest.approx(threshold, rel=1e-12)
    toy = reduced.ToyLoss(eta, alpha, beta, stiffness=settings["damping"] / eta, **known)
    for x, y in ((0.5, -1.0), (-2.0, 1.5)):
        expected = float(toy.loss(np.array([x, y / beta**0.5])))
        assert compute("loss", x, y, settings) == pytest.approx(expected, rel=1e-12)


def test_stages_equal_the_library(compute):
    settings, steps = RUNS[1]
    told = compute("iterate", settings, steps)
    delta = float(reduced.radius(alpha=settings["alpha"], beta=settings["beta"]))
    expected = reduced.stages(told["x"], told["y"], delta).stage
    ours = compute("stages", told["x"], told["y"], settings)
    assert set(ours) == {1, 2, 3, 4}
    np.testing.assert_array_equal(ours, expected)


def test_rest_point_is_one_and_divergence_is_said(compute):
    settings = RUNS[2][0]
    rest = compute("restPoint", settings)
    after = compute("step", rest, settings)
    assert (after["x"], after["y"]) == pytest.approx((-rest["x"], rest["y"]), rel=1e-12)
    assert rest["y"] > 0  # a valley that flattens outwards hovers above the threshold
    settings = RUNS[-1][0]  # skew: the mean of the two points, to the next order in ε = 0.05
    told, rest = compute("iterate", settings, 3000), compute("restPoint", settings)
    assert np.abs(told["x"][-2:]).mean() == pytest.approx(rest["x"], rel=0.01)
    assert np.mean(told["y"][-2:]) == pytest.approx(rest["y"], rel=0.05)
    assert rest["y"] == pytest.approx(0.05 * 6 / 2)
    wild = compute("iterate", {**settings, "quartic": 5.0, "x0": 6.0}, 100)
    assert wild["status"] == "diverged"
    assert np.all(np.isfinite(wild["x"]))


@pytest.mark.parametrize(
    "shape", [dict(quartic=0.0, kappa=0.0), dict(quartic=0.1, kappa=4.0), dict(quartic=-0.1, kappa=6.0)]
)
def test_walls_of_the_valley_reach_their_height(compute, shape):
    """On both sides, in the middle of the rise; where a wall's top is lower, the whole side lies below."""
    settings = RUNS[0][0] | shape
    for sign in (1, -1):
        for height in (0.5, 20.0):
            far = compute("reach", height, -0.5, sign, 8.0, settings)
            level = compute("loss", sign * far, -0.5, settings) - compute("floor", -0.5, settings)
            assert level == pytest.approx(height, rel=1e-9)
        assert compute("reach", 1e4, -0.5, sign, 8.0, settings) == 8.0


def test_stages_have_the_tints_of_the_figures():
    light = (ASSETS / "lab.css").read_text(encoding="utf-8").partition('html[data-theme="dark"]')[0]
    tints = {int(stage): tint for stage, tint in re.findall(r"--lab-stage(\d): (#\w+);", light)}
    assert tints == {stage: tint.lower() for stage, tint in STAGES.items()}


PAIR = dict(eta=0.05, coupling=1.4, second=0.6, damping=0.005, z0=[0.5, 0.3])


@pytest.mark.parametrize(("x0", "a"), [(0.4, 0.8), (1.3, 1.1), (0.9, 1.3), (-0.7, 1.9)])
def test_cubic_map_equals_the_library(compute, x0, a):
    """Twelve steps: in chaos each doubles the error of rounding or more, by less than seven decades in all."""
    np.testing.assert_allclose(compute("cubicOrbit", x0, a, 12), small_maps.cubic_orbit(x0, a, 12), atol=1e-9)
    np.testing.assert_allclose(compute("cubicStep", x0, a), small_maps.cubic_step(x0, a), rtol=1e-14)
    if a > 1:
        np.testing.assert_allclose(compute("cubicCycle", a), small_maps.two_cycle(a), rtol=1e-14)


def test_diverging_cubic_orbit_ends(compute):
    told = compute("cubicOrbit", 2.0, 1.5, 2000)
    assert 1 < len(told) < 20
    assert np.all(np.abs(told) <= 1e6)


@pytest.mark.parametrize(("eta", "p0", "steep"), [(0.125, 0.3, 1.4), (0.3, 2.0, 1.05), (0.03, 0.02, 2.0)])
def test_valley_equals_the_library(compute, eta, p0, steep):
    told = compute("valleyOrbit", {"eta": eta, "p0": p0, "steep": steep}, 400)
    y0 = (2 * steep / eta) ** 0.5
    x, y = small_maps.valley_orbit(p0 / y0, y0, eta, 400)
    p, q = small_maps.aligned(x, y, eta)
    np.testing.assert_allclose(told["p"], p, atol=1e-9)
    np.testing.assert_allclose(told["q"], q, rtol=1e-9)
    np.testing.assert_allclose(told["edge"], small_maps.valley_sharpness(x, y) * eta / 2, rtol=1e-9)
    assert compute("finalSharpness", eta) == small_maps.final_sharpness(eta)
    curve = [compute("alignmentCurve", each) for each in (0.0, 0.3, -2.0)]
    np.testing.assert_allclose(curve, small_maps.alignment_curve(np.array([0.0, 0.3, -2.0])), rtol=1e-14)


def test_phases_of_the_cubic_map_are_the_library_s():
    source = (ASSETS / "lab-dynamics.js").read_text(encoding="utf-8")
    written = re.search(r"cubicPhases = \{(.*?)\}", source).group(1)
    values = {"2 * root2 - 2": 2 * 2**0.5 - 2, "1": 1.0, "Math.sqrt(5) - 1": 5**0.5 - 1, "2": 2.0}
    told = [values[part.split(": ")[1].strip()] for part in written.split(",")]
    np.testing.assert_allclose(told, [*small_maps.PHASES.values()], rtol=1e-15)


def pair_problem(compute, **changed) -> tuple[dict, dict]:
    """The lab's problem of two directions, and the library's arguments for it."""
    p = compute("pairProblem", PAIR | changed)
    return p, dict(sharpening=matrix.smat(jnp.array(p["sharpening"], float)), gram=jnp.array(p["gram"], float))


def test_one_step_of_two_directions_equals_the_library(compute):
    """With a full 𝒢 and A, and a Y off the diagonal."""
    problem = matrix.random_problem(3, 2)
    p = dict(eta=0.07, damping=0.03, sharpening=matrix.svec(problem.sharpening).tolist(), gram=problem.gram.tolist())
    z, y = jnp.array([0.7, -1.3]), jnp.array([[0.4, -0.6], [-0.6, 1.1]])
    told = compute("pairStep", {"z": z.tolist(), "y": matrix.svec(y).tolist()}, p)
    expected = matrix.step(z, y, learning_rate=0.07, damping=0.03, **problem._asdict())
    np.testing.assert_allclose(told["z"], expected[0], rtol=1e-14)
    np.testing.assert_allclose(told["y"], matrix.svec(expected[1]), rtol=1e-13)


@pytest.mark.parametrize("changed", [{}, dict(coupling=0.5, damping=0.0), dict(second=-0.5), dict(damping=0.1)])
def test_orbit_of_two_directions_equals_the_library(compute, changed):
    """To 1e-9 over 400 steps: an exponent of at most 0.01 per step amplifies rounding a hundredfold."""
    p, problem = pair_problem(compute, **changed)
    told = compute("pairIterate", p, 400)
    z, y = matrix.iterate(p["z0"], np.zeros((2, 2)), 400, learning_rate=p["eta"], damping=p["damping"], **problem)
    assert told["status"] == "finished"
    np.testing.assert_allclose(told["z"], z, rtol=0, atol=1e-9)
    np.testing.assert_allclose(told["y"], matrix.svec(y), rtol=0, atol=1e-9)
    mean = np.einsum("ti,tj->ij", z, z) / 401
    np.testing.assert_allclose(told["mean"][-1], matrix.svec(jnp.array(mean)), rtol=0, atol=1e-9)
    np.testing.assert_allclose(told["top"][-1], np.linalg.eigvalsh(y)[:, -1].mean(), rtol=0, atol=1e-9)


def test_covariance_of_two_directions_solves_the_complementarity_problem(compute):
    """With the 𝒢 that the page describes: g² times what is off the diagonal."""
    for changed in ({}, dict(coupling=0.5, second=1.0), dict(second=-0.5)):
        p, problem = pair_problem(compute, **changed)
        held = p["gram"] @ np.asarray(matrix.svec(jnp.array([[2.0, 3.0], [3.0, 5.0]])))
        square = (PAIR | changed)["coupling"] ** 2
        np.testing.assert_allclose(matrix.smat(jnp.array(held)), [[2, 3 * square], [3 * square, 5]], rtol=1e-12)
        np.testing.assert_allclose(p["sigma"], matrix.svec(matrix.covariance(**problem)), rtol=0, atol=1e-9)


def test_what_the_page_says_of_two_directions(compute):
    """Coupled: ⟨zzᵀ⟩ within 5 % of Σ, the sharpness above the edge; over-damped: far from it; uncoupled: diverging."""

    def mean(**changed):
        p, _ = pair_problem(compute, **changed)
        told = compute("pairIterate", p, 4000)
        apart = np.linalg.norm(np.subtract(told["mean"][-1], p["sigma"])) / np.linalg.norm(p["sigma"])
        return told["status"], apart, told["top"][-1], told

    status, apart, top, _ = mean()
    assert (status, apart < 0.05, top > 0.3) == ("finished", True, True)
    status, apart, top, told = mean(damping=0.1)
    assert (status, apart > 0.4, top > 0.2) == ("finished", True, True)
    np.testing.assert_allclose(told["z"][-1], told["z"][-2], rtol=0, atol=1e-9)  # at rest
    assert mean(second=-0.5)[1] < 0.05
    assert mean(coupling=0.0, damping=0.0)[0] == "diverged"


# ---------------------------------------------------------------------------------------------------------- the page

READY = "document.querySelector('#lab[data-ready]') !== null"


@pytest.fixture
def lab(open_page, site):
    """``lab(hash)`` opens the lab at rest; a reader who asks for reduced motion gets no movement."""
    assert (site / "lab.html").is_file(), "the built book has no lab page"

    def open_(hash_: str = "", **context):
        page = open_page("lab.html" + hash_, base=site.as_uri(), **({"reduced_motion": "reduce"} | context))
        page.wait_for_function(READY)
        return page

    return open_


def value(page, key: str) -> float:
    """An exact value of the table, as it stands."""
    settle(page)
    return float(page.get_attribute(f"#lab-value-{key}", "data-value"))


def ink(page, picture: str) -> str:
    """A picture's pixels, of each of its canvases."""
    settle(page)
    return "".join(page.locator(f"#lab-{picture} canvas").evaluate_all("all => all.map((each) => each.toDataURL())"))


def test_the_page_asks_for_nothing_and_throws_nothing(lab):
    page = lab()
    assert not page.complaints.external
    assert not page.complaints.errors
    for picture in ("phase", "valley", "series"):
        colours = page.locator(f"#lab-{picture} canvas").evaluate_all(
            """all => all.map((c) => {
              const pixels = c.getContext("2d").getImageData(0, 0, c.width, c.height);
              return new Set(new Uint32Array(pixels.data.buffer)).size;
            })"""
        )
        assert len(colours) == (3 if picture == "series" else 1)
        assert min(colours) > 20, f"{picture} is empty"


def test_sliders_by_keyboard(lab):
    """An arrow key changes the parameter, its spoken value, the run and the pictures; every slider has its label."""
    page = lab()
    for key in ("eta", "alpha", "beta", "x0", "y0", "damping", "quartic", "kappa"):
        slider = page.locator(f"#lab-{key}")
        before, pixels = page.evaluate("() => JSON.stringify(eosLab.orbit.y)"), ink(page, "series")
        spoken = slider.get_attribute("aria-valuetext")
        slider.focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") != spoken, key
        assert page.locator(f"output[for=lab-{key}]").inner_text() == slider.get_attribute("aria-valuetext"), key
        assert page.evaluate("() => JSON.stringify(eosLab.orbit.y)") != before, key
        assert ink(page, "series") != pixels, key
        assert page.locator(f"label[for=lab-{key}]").count() == 1, key


def test_slider_by_mouse_changes_what_it_should(lab):
    page = lab()
    page.locator("#lab-eta").scroll_into_view_if_needed()
    box = page.locator("#lab-eta").bounding_box()
    page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    eta = page.evaluate("() => eosLab.settings.eta")
    assert 0.1 < eta < 0.2
    assert value(page, "eps") == pytest.approx(eta, rel=1e-12)  # α = 1
    page.locator("#lab-t").focus()
    page.keyboard.press("Home")
    assert value(page, "s") == pytest.approx(2 / eta + page.evaluate("() => eosLab.settings.y0"), rel=1e-12)


def test_stepping_shows_the_library_values(lab):
    page = lab("#eta=0.05&alpha=1&beta=1&x0=0.3&y0=0.5&damping=0.01&quartic=0.02&kappa=2&n=200&t=0")
    for _ in range(7):
        page.click("#lab-step")
    known = dict(learning_rate=0.05, alpha=1.0, beta=1.0, damping=0.01, quartic=0.02, skew=2**0.5)
    x, y = reduced.iterate(0.3, 0.5, 7, **known)
    assert value(page, "t") == 7
    assert value(page, "x") == pytest.approx(float(x[-1]), abs=1e-9)
    assert value(page, "y") == pytest.approx(float(y[-1]), abs=1e-9)
    page.click("#lab-back")
    assert value(page, "x") == pytest.approx(float(x[-2]), abs=1e-9)
    page.click("#lab-reset")
    assert value(page, "t") == 0
    assert value(page, "x") == pytest.approx(0.3)


def test_play_and_pause(lab):
    page = lab(
        "#eta=0.05&alpha=1&beta=1&x0=0.01&y0=0&damping=0.005&quartic=0&n=800&t=0", reduced_motion="no-preference"
    )
    page.focus("#lab-play")
    page.keyboard.press("Space")
    page.wait_for_function("eosLab.t > 10")
    page.keyboard.press("Space")
    stopped = value(page, "t")
    settle(page, 20)
    assert value(page, "t") == stopped > 10
    page.wait_for_function("document.getElementById('lab-live').textContent.startsWith('Paused. Step')")


def test_stage_presets_play_one_stage(lab):
    """A preset starts inside its stage and stops at the first step of the next."""
    page = lab(reduced_motion="no-preference")
    for stage in (1, 2, 3, 4):
        page.click(f"[data-preset=stage{stage}]")
        page.wait_for_function("!eosLab.playing && eosLab.t > 0")
        stages = page.evaluate("() => eosLab.stage.slice(0, eosLab.t + 1)")
        assert set(stages[:-1]) == {stage}
        assert stages[-1] == stage % 4 + 1


def test_leaving_the_edge_and_damping(lab):
    page = lab()
    page.click("[data-preset=leave]")
    assert page.evaluate("() => eosLab.orbit.y.at(-1)") < -5
    assert page.locator(".lab-stage").inner_text() == "off the edge"
    page.click("[data-preset=damped]")
    assert page.evaluate(
        "() => Math.abs(eosLab.orbit.x.at(-1)) / EosDynamics.radius(eosLab.settings)"
    ) == pytest.approx(1, abs=0.05)


def test_reduced_motion_has_no_play_and_no_movement(lab):
    page = lab()
    page.locator("#lab-phase").scroll_into_view_if_needed()
    settle(page, 25)
    assert value(page, "t") == 0
    assert page.locator("#lab-play").is_hidden()
    page.click("#lab-next")
    assert value(page, "t") > 0


def test_link_restores_the_state(lab):
    """The link's own text, opened anew, shows the same numbers; opening it in the same page does too."""
    page = lab("#eta=0.031&alpha=0.85&beta=1.7&x0=0.0123&y0=-0.65&damping=0.0015&quartic=-0.015&n=200&t=41")
    link = page.input_value("#lab-address")
    seen = {key: value(page, key) for key in ("t", "x", "y", "s", "l")}
    assert seen["t"] == 41
    page.locator("#lab-alpha").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("location.hash.includes('alpha=0.9')")
    again = lab("#" + link.split("#", 1)[1])
    assert {key: value(again, key) for key in seen} == seen
    page.evaluate("(hash) => { location.hash = hash; }", link.split("#", 1)[1])
    page.wait_for_function("eosLab.settings.alpha === 0.85")
    assert {key: value(page, key) for key in seen} == seen


def test_a_bad_link_is_harmless(lab):
    page = lab("#eta=banana&alpha=1e99&n=7&t=-4")
    assert page.evaluate("() => eosLab.settings.eta") == 0.05
    assert page.evaluate("() => eosLab.settings.alpha") == 4
    assert page.evaluate("() => eosLab.settings.n") == 400
    assert not page.complaints.errors


def test_dragging_the_time_picture_moves_in_time(lab):
    page = lab()
    page.locator("#lab-series").scroll_into_view_if_needed()
    box = page.locator("#lab-series").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 60)
    page.mouse.down()
    early = value(page, "t")
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 60, steps=4)
    page.mouse.up()
    assert 0 < early < value(page, "t")


def test_dark_theme_repaints_and_phone_fits(lab):
    page = lab(viewport=DESKTOP)
    light = ink(page, "phase")
    page.evaluate("() => { document.documentElement.dataset.theme = 'dark'; }")
    page.wait_for_function("(light) => document.querySelector('#lab-phase canvas').toDataURL() !== light", arg=light)
    phone = lab(viewport=PHONE)
    assert phone.evaluate(
        "() => document.getElementById('lab').scrollWidth <= document.getElementById('lab').clientWidth"
    )
    right = phone.evaluate(
        "() => Math.max(...[...document.querySelectorAll('#lab *')].map((e) => e.getBoundingClientRect().right))"
    )
    assert right <= PHONE["width"]


def test_two_directions_by_keyboard(lab):
    """Arrow keys move in time; each parameter changes the run and both pictures; a phone fits."""
    page = lab(viewport=PHONE)
    page.wait_for_selector("#lab-pair[data-ready]")
    page.locator("#lab-pair-t").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    settle(page)
    assert [page.get_attribute(f"#lab-pair-{key}", "data-value") for key in ("step", "z1", "z2")] == ["1", "0.5", "0.3"]
    page.keyboard.press("End")
    for key in ("eta", "coupling", "second", "damping"):
        slider, before = page.locator(f"#lab-pair-{key}"), [ink(page, "pair-orbit"), ink(page, "pair-cone")]
        spoken, apart = slider.get_attribute("aria-valuetext"), page.get_attribute("#lab-pair-apart", "data-value")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        after = [ink(page, "pair-orbit"), ink(page, "pair-cone")]
        assert page.locator(f"output[for=lab-pair-{key}]").inner_text() == slider.get_attribute("aria-valuetext")
        assert slider.get_attribute("aria-valuetext") != spoken, key
        assert page.get_attribute("#lab-pair-apart", "data-value") != apart, key
        assert all(a != b for a, b in zip(after, before, strict=True)), key
    assert page.locator("#lab-pair").evaluate("(e) => e.scrollWidth <= e.clientWidth")
    assert not page.complaints.errors


def test_small_maps_by_keyboard(lab):
    """Each parameter changes the pictures of its own map, and its numbers are the library's; a phone fits."""
    page = lab(viewport=PHONE)
    page.wait_for_selector("#lab-maps[data-ready]")
    one, two = ("maps-tree", "maps-orbit"), ("maps-plane", "maps-edge")
    for key, pictures in dict(a=one, x0=one[1:], eta=two, p0=two, steep=two).items():
        slider, before = page.locator(f"#lab-maps-{key}"), [ink(page, each) for each in pictures]
        spoken = slider.get_attribute("aria-valuetext")
        slider.focus()
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        settle(page)
        assert slider.get_attribute("aria-valuetext") != spoken, key
        assert all(a != b for a, b in zip([ink(page, each) for each in pictures], before, strict=True)), key
    value = lambda key: float(page.get_attribute(f"#lab-maps-{key}", "data-value"))  # noqa: E731
    a = page.locator("#lab-maps-a").evaluate("(e) => e.valueAsNumber")
    np.testing.assert_allclose([value("low"), value("high")], small_maps.two_cycle(a), rtol=1e-9)
    assert value("end") == pytest.approx(value("predicted"), abs=1e-3)
    assert page.locator("#lab-maps").evaluate("(e) => e.scrollWidth <= e.clientWidth")
    assert not page.complaints.errors


def test_without_scripts_there_is_a_figure_and_a_word(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "lab.html").as_uri())
    assert page.locator("#lab noscript").inner_text().startswith("This page is interactive")
    assert page.locator(".lab-still svg").is_visible()
    assert page.locator(".lab-still svg polyline").count() == 3
    context.close()
