"""Strict numerics for every test: double precision at hand, no silent promotion, shapes checked at run time."""

import os
import pickle

os.environ.setdefault("MPLBACKEND", "Agg")
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    # As many workers as cores: each keeps to its own, instead of every thread pool reaching for all of them.
    cores = sorted(os.sched_getaffinity(0))
    if int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) >= len(cores):
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

# Compiling is most of what the tests cost, and XLA's older emitters for CPUs compile twice as fast.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"

import jax
import pytest
from filelock import FileLock
from hypothesis import settings
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

# Before anything imports them; it stays for the whole session. Records take any number, as a notebook gives it.
CHECKED = [f"selfstab.{name}" for name in ("criteria", "data", "experiment", "networks", "page", "runs", "theory")]
HOOK = install_import_hook(["eoslib", *CHECKED], "beartype.beartype")

#: Tests whose time goes into compiling many small programs: the compiler's optimizations cost more than they save.
COMPILE_BOUND = {
    f"test_{name}"
    for name in (
        "objective", "position", "eigen", "geometry", "sharpness", "rules", "loops", "stable_set", "constrained",
        "optax", "descent", "flow", "approach", "prediction", "track", "assumptions", "variables", "contracts", "runs",
        "criteria", "reference", "claims", "fuzz", "users_code", "ordinary_tracks", "complementarity",
        "directions",
    )
}  # fmt: skip


#: What takes longest goes first, so that no worker is left alone with it: a worker takes a file at a time.
LONGEST = (
    "notebooks",
    "pages",
    "networks",
    "workflow",
    "lab",
    "site",
    "track",
    "runs",
    "claims",
    "reference",
    "directions",
)


def pytest_collection_modifyitems(items):
    """The longest files first."""

    def turn(item):
        name = item.module.__name__.removeprefix("test_")
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=turn)


@pytest.fixture
def ordinary():
    """As JAX comes to a user: 32 bits, NumPy's promotion of dtypes and ranks."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """One folder for all workers of a session: what one has computed or compiled, another need not."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def compiled(shared):
    """The session's compiled programs, in this process and in those that inherit its environment."""
    kept = {"JAX_COMPILATION_CACHE_DIR": str(shared / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    os.environ |= kept
    for name, value in kept.items():
        jax.config.update(name.lower(), float(value) if name.endswith("SECS") else value)
    compilation_cache.reset_cache()  # what was compiled before this fixture has settled that there is none


@pytest.fixture(scope="module", autouse=True)
def _optimize_where_it_pays(request):
    jax.config.update("jax_disable_most_optimizations", request.module.__name__ in COMPILE_BOUND)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # a process that holds thousands of compiled programs runs out of memory maps, and crashes


@pytest.fixture(scope="session")
def network():
    """The small network as an eoslib objective; its start θ and dense derivatives: (objective, θ, Dense)."""
    import oracles

    from eoslib.objective import Objective

    params, batch = oracles.mlp_params(), oracles.mlp_batch()
    objective = Objective.create(oracles.mlp_loss, params, batch)
    dense = oracles.Dense.of(lambda theta: oracles.mlp_loss(objective.unravel(theta), batch))
    return objective, objective.ravel(params), dense


@pytest.fixture(scope="session")
def toy_objective():
    """The toy, its constants the batch: ``dataclasses.replace(toy_objective, batch=toy.constants)`` is another toy."""
    import oracles

    from eoslib.objective import Objective

    return Objective.create(oracles.toy_loss, jax.numpy.zeros(3), oracles.Toy().constants)


@pytest.fixture(scope="session")
def edge(network):
    """Where plain gradient descent with η = oracles.RATE first has S ≥ 2/η, and the dense eigenvector there."""
    import oracles

    _, theta, dense = network
    theta = oracles.descend_to_edge(dense, theta, oracles.RATE)
    return theta, jax.numpy.asarray(dense.eigen(theta)[1][0])


@pytest.fixture(scope="session")
def tracked(network, edge, shared):
    """Every trajectory of the small network from the edge on, the state at each step kept: (Dataset, states).

    One step a chunk, so that the state is seen at each; ``states[t]`` is a TrackState, ``states[-1]`` that at the end.
    The first worker that asks computes it for all.
    """
    import oracles

    from eoslib.trajectories.state import Options
    from eoslib.trajectories.track import track_from

    kept, states = shared / "tracked.pickle", []
    with FileLock(kept.with_suffix(".lock")):
        if not kept.exists():
            data = track_from(
                network[0], *edge, oracles.RATE, steps=oracles.STEPS, options=Options(**oracles.OPTIONS),
                progress=False, restore=lambda start: states.append(start[0]),
                save=lambda now, _: states.append(now[0]),
            )  # fmt: skip
            kept.write_bytes(pickle.dumps((data, states)))
        return pickle.loads(kept.read_bytes())
