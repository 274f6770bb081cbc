"""Strict numerics for every test: double precision at hand, no silent promotion, shapes checked at run time."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

# Before anything imports eoslib; it stays for the whole session.
HOOK = install_import_hook("eoslib", "beartype.beartype")

#: Tests whose time goes into compiling many small programs: the compiler's optimizations cost more than they save.
COMPILE_BOUND = {
    f"test_{name}"
    for name in (
        "objective", "eigen", "geometry", "stable_set", "dynamics", "tracking", "diagnostics", "results", "criteria",
        "reference", "claims",
    )
}  # fmt: skip


def pytest_collection_modifyitems(items):
    """Of several workers one takes a file, so that its fixtures are made once; each notebook goes alone, and first."""
    for item in items:
        if item.module.__name__ != "test_notebooks":
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
    items.sort(key=lambda item: item.module.__name__ != "test_notebooks")


@pytest.fixture(scope="module", autouse=True)
def _optimize_where_it_pays(request):
    jax.config.update("jax_disable_most_optimizations", request.module.__name__ in COMPILE_BOUND)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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
def edge(network):
    """Where plain gradient descent with η = oracles.RATE first has S ≥ 2/η, and the dense eigenvector there."""
    import oracles

    _, theta, dense = network
    theta = oracles.descend_to_edge(dense, theta, oracles.RATE)
    return theta, jax.numpy.asarray(dense.eigen(theta)[1][0])


@pytest.fixture(scope="session")
def tracked(network, edge):
    """Every trajectory of the small network from the edge on, the state at each step kept: (Dataset, states).

    One step a chunk, so that the state is seen at each; ``states[t]`` is a TrackState, ``states[-1]`` that at the end.
    """
    import oracles

    from eoslib import tracking

    states = []
    options = tracking.Options(
        generalized=True, transport=oracles.TRANSPORT, start=0.0, kick=0.5, chunk=1, strided=oracles.STRIDED
    )
    data = tracking.track_from(
        network[0], *edge, oracles.RATE, steps=oracles.STEPS, options=options, progress=False,
        restore=lambda start: states.append(start[0]), save=lambda kept, _: states.append(kept[0]),
    )  # fmt: skip
    return data, states
