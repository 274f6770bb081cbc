"""Which chapter draws on which runs: the one table that the task graph and the chapters share.

Nothing here imports JAX.

>>> [run.key("test", seed=0) for run in runs("04_constrained_trajectory", "test")]
['mlp-cifar10--eta0.02--seed0', 'mlp-cifar10-natural--eta0.02--seed0']
"""

from __future__ import annotations

import dataclasses

from selfstab import settings


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that a chapter draws on: a named experiment, possibly at another η, and an offset to the seed.

    Further seeds are run only at the scales named: at test scale one is enough, at paper scale one is affordable.
    """

    name: str
    learning_rate: dict[str, float] | None = None
    seed_offset: int = 0
    scales: tuple[str, ...] = settings.SCALES

    def setting(self, scale: str) -> settings.Setting:
        """Return its setting at a scale."""
        return settings.get(
            self.name, scale, **({"learning_rate": self.learning_rate[scale]} if self.learning_rate else {})
        )

    def key(self, scale: str, seed: int) -> str:
        """Return its name at a scale, for the seed of the whole build."""
        return self.setting(scale).key(seed + self.seed_offset)


def _rates(name: str, **rates: tuple[float, ...]) -> tuple[Run, ...]:
    """Return runs of one experiment that differ in η, with the rates of each scale at which they are used."""
    columns = zip(*rates.values(), strict=True)
    return tuple(Run(name, dict(zip(rates, column)), scales=tuple(rates)) for column in columns)


def _seeds(name: str, count: int = 5) -> tuple[Run, ...]:
    """Return the runs of all but the first of ``count`` seeds, at quick scale; elsewhere one run is enough."""
    return tuple(Run(name, seed_offset=offset, scales=("quick",)) for offset in range(1, count))


#: Largest first.  At paper scale ten classes, whose runs the other chapters draw on too.
_SEVERAL_RATES = (
    *_rates("mlp-cats-dogs", test=(0.06, 0.05, 0.04), quick=(0.02, 0.01, 0.005)),
    *_rates("mlp-cifar10", paper=(0.04, 0.02, 0.015, 0.01)),
)

# All but the first take minutes to compile even at quick scale.
_OTHER_NETWORKS = (
    Run("cnn-cifar10", scales=("quick", "paper")),
    Run("resnet18-cifar10-n500", scales=("paper",)),
    Run("transformer-sst2", scales=("paper",)),
)

#: Which runs each chapter draws on; the task graph and the chapters read the same table.
RUNS: dict[str, tuple[Run, ...]] = {
    "01_progressive_sharpening": (*_SEVERAL_RATES, *_seeds("mlp-cats-dogs")),
    "02_edge_of_stability": (*_SEVERAL_RATES, *_seeds("mlp-cats-dogs")),
    "03_self_stabilization": (Run("mlp-cifar10"), *_seeds("mlp-cifar10")),
    "04_constrained_trajectory": (
        Run("mlp-cifar10"),
        *_seeds("mlp-cifar10"),
        Run("mlp-cifar10-natural"),
        *_seeds("mlp-cifar10-natural"),
    ),
    "05_predicted_dynamics": (
        Run("mlp-cifar10"),
        *_seeds("mlp-cifar10"),
        Run("mlp-cifar10-natural"),
        *_seeds("mlp-cifar10-natural"),
        *_OTHER_NETWORKS,
    ),
    "06_beyond_the_cubic": (Run("mlp-cats-dogs-logistic"), Run("mlp-cifar10-cross-entropy")),
    "07_assumptions": (
        Run("mlp-cifar10", scales=("test", "quick")),
        *_seeds("mlp-cifar10"),
        Run("mlp-cifar10-natural"),
        *_seeds("mlp-cifar10-natural"),
        Run("mlp-cifar10-cross-entropy"),
        Run("mlp-cats-dogs-logistic"),
        *_SEVERAL_RATES,
    ),
    "08_settings": (
        *_SEVERAL_RATES,
        *_seeds("mlp-cats-dogs"),
        Run("mlp-cats-dogs", scales=("paper",)),
        Run("mlp-cifar10", scales=("test", "quick")),
        *_seeds("mlp-cifar10"),
        Run("mlp-cats-dogs-natural", scales=("quick",)),
        *_seeds("mlp-cats-dogs-natural"),
        Run("mlp-cifar10-natural"),
        *_seeds("mlp-cifar10-natural"),
        *(Run(f"mlp-cats-dogs-{activation}", scales=("quick",)) for activation in settings.ACTIVATIONS[1:]),
        Run("mlp-cats-dogs-logistic"),
        *_rates("mlp-cats-dogs-logistic", quick=(0.08, 0.03)),
        Run("mlp-cifar10-cross-entropy"),
        *_rates("mlp-cifar10-cross-entropy", quick=(0.08,)),
        *_OTHER_NETWORKS,
    ),
    "11_several_directions": (
        Run("mlp-cifar10-central-flow", scales=("test", "quick")),
        Run("mlp-cifar10-directions", scales=("paper",)),
        *_seeds("mlp-cifar10-directions"),
        Run("mlp-cifar10-one-direction"),
    ),
}


def runs(chapter: str, scale: str) -> tuple[Run, ...]:
    """Return the runs that a chapter draws on at a scale; none where :data:`RUNS` does not name it."""
    return tuple(run for run in RUNS.get(chapter, ()) if scale in run.scales)
