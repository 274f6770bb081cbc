"""The claims can fail: a wrong dynamics in the place of the right one turns the verdicts of the notebooks red."""

import json
import pathlib

import jax

from eoslib.rules import GradientDescent
from eoslib.trajectories import prediction, state
from selfstab.page import page

NOTEBOOKS = pathlib.Path(__file__).parent.parent / "notebooks"
#: Claims that hold at test scale (test_notebooks says so), and must not where the dynamics is wrong.
CLAIMS = {
    "04_constrained_trajectory": {"excess-loss"},
    "05_predicted_dynamics": {"prediction-sharpness"},
}


def failing(notebook, folder, monkeypatch):
    """Execute a notebook's code in this process, at test scale: which of its CLAIMS do not hold."""
    monkeypatch.setenv("EOSLIB_RESULTS", str(folder))
    monkeypatch.delenv("EOSLIB_DATA", raising=False)
    monkeypatch.setattr(page, "display", lambda *args, **options: None)
    names = {"__name__": "__main__"}
    # A reader's kernel has JAX's own defaults, not those of the tests.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        for cell in json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text())["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), "cell", "exec", optimize=1), names)  # claims, not asserts
            if "parameters" in cell["metadata"].get("tags", ()):
                names |= {"scale": "test", "seed": 0}
    record = json.loads((folder / "test" / "records" / f"{notebook}.json").read_text())
    verdicts = {claim["id"]: claim["verdict"] for claim in record["claims"]}
    assert verdicts.keys() >= CLAIMS[notebook]
    return {claim for claim in CLAIMS[notebook] if verdicts[claim] == "does not hold"}


def test_the_cubic_force_with_the_wrong_sign_is_seen(tmp_path, monkeypatch):
    right = prediction.half_force
    monkeypatch.setattr(prediction, "half_force", lambda *arguments: -right(*arguments))
    assert failing("05_predicted_dynamics", tmp_path, monkeypatch) == CLAIMS["05_predicted_dynamics"]


def test_a_learning_rate_twice_too_large_is_seen(tmp_path, monkeypatch):
    right = state.gradient_descent_step

    def twice(objective, rule, at, **options):
        return right(objective, GradientDescent(2 * rule.learning_rate), at, **options)

    monkeypatch.setattr(state, "gradient_descent_step", twice)
    assert failing("04_constrained_trajectory", tmp_path, monkeypatch) == CLAIMS["04_constrained_trajectory"]
