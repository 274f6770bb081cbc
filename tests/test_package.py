"""The library as its users install it: what its wheel holds; that it works on the lowest versions and the newest."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "eoslib"
PROJECT = tomllib.loads((LIBRARY / "pyproject.toml").read_text())["project"]
#: What `uv` says of a machine without the package index.
UNREACHABLE = r"(?i)error sending request|failed to fetch|dns error|could not connect|timed out|offline"

NETWORK = """
    import jax, jax.numpy as jnp, numpy as np
    from jax.flatten_util import ravel_pytree

    x = jax.random.normal(jax.random.key(0), (20, 3))

    def loss(params):
        return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] - 3 * jnp.sin(3 * x[:, 0])) ** 2)

    w, v = jax.random.split(jax.random.key(1))
    params = {"w": jax.random.normal(w, (3, 8)) / 2, "v": jax.random.normal(v, (8,)) / 2}
    back = ravel_pytree(params)[1]

    def curvature(params):
        return np.linalg.eigvalsh(jax.hessian(lambda t: loss(back(t)))(ravel_pytree(params)[0]))[-1]
"""
#: Ten constrained steps, and a long vector in single precision, of which careless sums lose a thousandth.
SMOKE = """
    assert "converged" in found.message
    np.testing.assert_allclose(found.value, curvature(params), rtol=1e-4)

    rate = 2 / (0.9 * float(found.value))
    constrained = eoslib.constrained_gradient_descent(rate)
    step = jax.jit(lambda state, params: constrained.update(None, state, params, loss_fn=loss))
    first, state = loss(params), constrained.init(params)
    for _ in range(10):
        move, state = step(state, params)
        params = jax.tree.map(jnp.add, params, move)
    assert abs(curvature(params) * rate / 2 - 1) < 0.1  # a step of this coarse problem moves S by a tenth
    assert loss(params) < first

    u = jax.random.normal(jax.random.key(3), (700_000,)) ** 3
    u = u / jnp.linalg.norm(u)
    long = eoslib.sharpness(lambda t: 50 * jnp.sum(u * t) ** 2, jnp.zeros(u.size))
    np.testing.assert_allclose(long.value, 100, rtol=1e-5)
"""
WITHOUT_TRACK = """
    try:
        eoslib.track
    except ImportError as error:
        assert "xarray" in str(error) or "tqdm" in str(error)
    else:
        raise AssertionError("eoslib.track without xarray")
"""
TRACK = """
    rate = 2 / (1.3 * float(found.value))
    data = eoslib.track(loss, params, learning_rate=rate, steps=10, edge_steps=200, progress=False)
    assert data.sizes["t"] == 10, data.attrs["status"]
"""


@pytest.fixture(scope="module")
def uv(tmp_path_factory):
    """``uv(words…)``: what uv prints; skips where it needs the package index and cannot reach it."""
    surroundings = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def call(*words: str | pathlib.Path) -> str:
        command = [sys.executable, "-m", "uv", *words]
        done = subprocess.run(
            command, cwd=tmp_path_factory.getbasetemp(), env=surroundings, capture_output=True, text=True
        )
        if done.returncode and re.search(UNREACHABLE, done.stderr):
            pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
        assert not done.returncode, done.stderr
        return done.stdout

    return call


@pytest.fixture(scope="module")
def built(uv, tmp_path_factory):
    """The library's sdist, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "-q", "--out-dir", folder, LIBRARY)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def test_the_wheel_holds_the_modules_and_nothing_else(built):
    sdist, wheel = built
    modules = {f"eoslib/{file.relative_to(LIBRARY)}" for file in (*LIBRARY.glob("*.py"), *LIBRARY.glob("*/*.py"))}
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in held if ".dist-info/" not in name} == modules | {"eoslib/py.typed"}
    assert any(name.endswith("/licenses/LICENSE") for name in held)
    with tarfile.open(sdist) as archive:
        sources = {name.split("/", 1)[1] for name in archive.getnames()} - {".gitignore"}
    kept = {name.removeprefix("eoslib/") for name in modules}
    assert sources == kept | {"py.typed", "pyproject.toml", "README.md", "LICENSE", "PKG-INFO"}


def example(readme: pathlib.Path) -> str:
    """The readme's example: the indented block that begins with ``import eoslib``."""
    return textwrap.dedent(
        re.search(r"^    import eoslib\n(?:(?:    .*)?\n)+", readme.read_text(), re.MULTILINE).group()
    )


def closure(installed: dict[str, list[str]], roots: set[str]) -> set[str]:
    """Distributions that some of them ask for, directly or not, without extras."""
    while more := {name for root in roots for name in installed.get(root, ())} & installed.keys() - roots:
        roots = roots | more
    return roots & installed.keys()


INSTALLED = """
    import importlib.metadata, json, re
    name = lambda text: re.sub(r"[-_.]+", "-", re.match(r"[\\w.-]+", text).group()).lower()
    found = {name(one.metadata["Name"]): one for one in importlib.metadata.distributions()}
    asked = {key: [name(line) for line in one.requires or () if "extra ==" not in line] for key, one in found.items()}
    print(json.dumps([asked, {key: one.version for key, one in found.items()}]))
"""


@pytest.mark.parametrize("versions", ["lowest-direct", "highest"])
def test_the_library_works_in_an_empty_environment(uv, tmp_path, versions):
    if versions != "highest" and sys.version_info[:2] != (3, 11):
        pytest.skip("the lowest versions belong to the lowest Python, 3.11")
    uv("venv", "-q", "--python", sys.executable, tmp_path / "empty")
    python = tmp_path / "empty" / "bin" / "python"

    def install(extra: str) -> None:
        uv("pip", "install", "-q", "--python", python, "--resolution", versions, f"{LIBRARY}{extra}")

    def run(*parts: str) -> str:
        code = "\n".join(map(textwrap.dedent, parts))
        done = subprocess.run([python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert not done.returncode, done.stderr
        return done.stdout

    install("")
    installed, chosen = json.loads(run(INSTALLED))
    assert set(installed["eoslib"]) == {"jax", "jaxtyping", "numpy", "optax"}
    assert installed.keys() == closure(installed, {"eoslib"})
    assert not installed.keys() & {"flax", "xarray", "tqdm", "pandas", "h5py", "matplotlib", "selfstab"}
    if versions == "lowest-direct":
        for name, lowest in (line.split(">=") for line in PROJECT["dependencies"]):
            assert f"{chosen[name]}.".startswith(f"{lowest}."), name
    readmes = [example(ROOT / "README.md"), example(LIBRARY / "README.md")]
    run(NETWORK, *readmes, SMOKE, WITHOUT_TRACK)
    install("[track]")
    run(NETWORK, readmes[0], TRACK)
