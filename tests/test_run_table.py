"""The table of chapters and runs: every chapter has its notebook, no run stands twice, larger ones come first."""

import json
import pathlib

import pytest

from selfstab import chapters, settings

NOTEBOOKS = pathlib.Path(__file__).resolve().parent.parent / "notebooks"


def code(chapter: str) -> str:
    cells = json.loads((NOTEBOOKS / f"{chapter}.ipynb").read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("chapter", chapters.RUNS)
def test_every_chapter_has_its_notebook(chapter):
    assert chapter in code(chapter), "a notebook asks by its own name"


@pytest.mark.parametrize("scale", settings.SCALES)
@pytest.mark.parametrize("chapter", chapters.RUNS)
def test_a_chapter_draws_on_no_run_twice(chapter, scale):
    keys = [run.key(scale, 0) for run in chapters.runs(chapter, scale)]
    assert keys
    assert len(set(keys)) == len(keys)


def test_an_unknown_chapter_draws_on_nothing():
    assert chapters.runs("99_nothing", "quick") == ()


def test_a_run_is_a_setting_with_its_own_rate_and_seed():
    run = chapters.Run("mlp-cifar10", {"quick": 0.015}, seed_offset=2, scales=("quick",))
    assert run.setting("quick") == settings.get("mlp-cifar10", "quick", learning_rate=0.015)
    assert run.key("quick", seed=1) == "mlp-cifar10--eta0.015--seed3"
    assert chapters.Run("mlp-cifar10").setting("paper") == settings.get("mlp-cifar10", "paper")


def test_every_run_names_a_known_experiment_and_known_scales():
    for run in (run for table in chapters.RUNS.values() for run in table):
        assert run.scales
        assert set(run.scales) <= set(settings.SCALES)
        assert {run.setting(scale).name for scale in run.scales} == {run.name}
