"""The one table of named experiments.

A :class:`Setting` holds everything that a run depends on besides its seed: data, network, criterion, learning rate and
lengths.  Each named experiment has three scales: ``paper`` (published sizes), ``quick`` (what a newcomer and CI run)
and ``test`` (still smaller, for the test suite).  Nothing here imports JAX.  A setting holds only values; their meaning
is decided in :mod:`selfstab.experiment`, whose code is part of every run's digest.

>>> get("mlp-cats-dogs", "quick").learning_rate
0.01
>>> get("mlp-cats-dogs", "quick", learning_rate=0.02).key(seed=1)
'mlp-cats-dogs--eta0.02--seed1'
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

SCALES = ("test", "quick", "paper")
DATASETS = ("cifar10", "cats-dogs", "sst2")
MODELS = ("mlp", "cnn", "resnet18", "resnet18-released", "vgg11", "transformer", "transformer-released", "bert-tiny")
ACTIVATIONS = ("swish", "tanh", "gelu", "relu", "softplus")
CRITERIA = ("squared-error", "cross-entropy", "logistic")
PRECISIONS = ("float32", "float64")
#: The name that readers know, where it differs from the one above.
WORDS = {
    "cifar10": "CIFAR-10", "cats-dogs": "cats and dogs", "sst2": "SST-2",
    "mlp": "MLP", "cnn": "CNN", "resnet18": "ResNet-18", "vgg11": "VGG-11", "transformer": "Transformer",
    "bert-tiny": "BERT-tiny", "resnet18-released": "ResNet-18 (released shape)",
    "transformer-released": "Transformer (released shape)", "gelu": "GELU", "relu": "ReLU",
    "squared-error": "squared error",
}  # fmt: skip


def check_known(field: str, value: str, names) -> None:
    """Raise ValueError, listing the known names, unless ``value`` is one of them."""
    if value not in names:
        raise ValueError(f"unknown {field} {value!r}; known: {', '.join(names)}")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One experiment at one scale.

    Attributes:
        name: Row of the table, e.g. ``"mlp-cats-dogs"``.
        scale: ``"test"``, ``"quick"`` or ``"paper"``.
        dataset: One of :data:`DATASETS`.
        n: Number of training samples (full batch).
        model: One of :data:`MODELS`.
        width: Hidden width (MLP), channels (CNN, ResNet, VGG) or embedding width (encoders).
        activation: One of :data:`ACTIVATIONS`.
        criterion: One of :data:`CRITERIA`.
        learning_rate: Step size η of full-batch gradient descent.
        edge_steps: Limit on the gradient-descent steps to reach S = 2/η.
        tracked_steps: Steps recorded, the first at the instability.
        image_size: Side of the images in pixels (32, or 16 for a 2×2 average pool of them).
        micro_batch: Samples per derivative evaluation; ``None`` takes the whole batch at once.
        strided: Steps between the costly extras (spectrum, tensor norms, profile along u); 0 switches them off.
        generalized: Whether the generalized prediction is advanced too (two more gradients per step).
        kick: At the instability gradient descent is moved along u by this fraction of δ; 0 is the natural start, whose
            initial |x| is whatever training left along u.
        directions: Limit on the leading directions followed: as many as are near the edge, and one more.
        restart_every: Steps after which the predictions restart from gradient descent; 0: never.
        central: Substeps of the central flow per step; 0 switches it off.
        transport: Period of the transported products β_{s→t}, in steps (one gradient per step); 0 switches them off.
        start: The predictions start where |x| first exceeds this fraction of δ, and follow gradient descent until then.
        midpoint: Whether the instability is where S reaches 2/η halfway along a step, as published.
        gradient_dtype: Precision in which L and ∇L are evaluated from there on, one of :data:`PRECISIONS`.

    Raises:
        ValueError: on an unknown name or a size or rate that is out of range, with the value received.
    """

    name: str
    scale: str
    dataset: str
    n: int
    model: str
    width: int
    criterion: str
    learning_rate: float
    edge_steps: int
    tracked_steps: int
    activation: str = "swish"
    image_size: int = 32
    micro_batch: int | None = None
    strided: int = 25
    generalized: bool = False
    kick: float = 0.0
    transport: int = 0
    directions: int = 1
    restart_every: int = 0
    central: int = 0
    start: float = 0.1
    midpoint: bool = False
    gradient_dtype: str = "float32"

    def __post_init__(self):
        known = dict(scale=SCALES, dataset=DATASETS, model=MODELS, activation=ACTIVATIONS, criterion=CRITERIA)
        known |= dict(gradient_dtype=PRECISIONS)
        for field, names in known.items():
            check_known(field, getattr(self, field), names)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate!r}")
        smallest = dict(n=1, width=1, edge_steps=1, tracked_steps=0, strided=0, transport=0)
        smallest |= dict(directions=1, restart_every=0, central=0)
        for field, least in smallest.items():
            if not (isinstance(value := getattr(self, field), int) and value >= least):
                raise ValueError(f"{field} must be a {'positive' if least else 'non-negative'} integer, got {value!r}")
        for field in ("kick", "start"):
            if not 0 <= (value := getattr(self, field)) <= 1:
                raise ValueError(f"{field} must lie in [0, 1] (a fraction of δ), got {value!r}")
        if self.image_size not in (16, 32):
            raise ValueError(f"image_size must be 16 or 32, got {self.image_size!r}")
        if self.micro_batch is not None and not 1 <= self.micro_batch <= self.n:
            raise ValueError(f"micro_batch must lie in 1..n={self.n} or be None, got {self.micro_batch!r}")
        if self.dataset != "cifar10" and self.n % 2:
            raise ValueError(f"n must be even for the balanced data set {self.dataset!r}, got {self.n}")
        if self.criterion == "logistic" and self.dataset == "cifar10":
            raise ValueError("the logistic criterion needs labels ±1, got the ten classes of 'cifar10'")
        if self.model.startswith(("transformer", "bert")) != (self.dataset == "sst2"):
            raise ValueError(f"model {self.model!r} does not read data set {self.dataset!r}")

    def key(self, seed: int) -> str:
        """Return the name of the run of this setting with this seed (its file is ``results/<scale>/<key>.nc``)."""
        return f"{self.name}--eta{self.learning_rate:g}--seed{seed}"

    def digest(self) -> str:
        """Return a SHA-256 (16 hex digits) of all fields, so that a changed setting is another run."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def _row(common: dict, *, test: dict, quick: dict, paper: dict) -> dict[str, dict]:
    return {"test": common | test, "quick": common | quick, "paper": common | paper}


# Chosen so that the edge is reached soon and ε = η√α stays small (the theory's regime).
_TABLE: dict[str, dict[str, dict]] = {
    "mlp-cats-dogs": _row(
        dict(dataset="cats-dogs", model="mlp", criterion="squared-error", kick=0.5),
        test=dict(n=200, width=16, learning_rate=0.02, edge_steps=3000, tracked_steps=50, image_size=16),
        quick=dict(n=1000, width=64, learning_rate=0.01, edge_steps=6000, tracked_steps=300, image_size=16),
        paper=dict(n=5000, width=200, learning_rate=0.02, edge_steps=6000, tracked_steps=1000, strided=50),
    ),
    "mlp-cifar10": _row(
        dict(dataset="cifar10", model="mlp", criterion="squared-error", kick=0.5, transport=50),
        test=dict(n=200, width=16, learning_rate=0.02, edge_steps=3000, tracked_steps=50, image_size=16),
        quick=dict(n=1000, width=64, learning_rate=0.02, edge_steps=6000, tracked_steps=250, image_size=16),
        paper=dict(n=5000, width=200, learning_rate=0.02, edge_steps=10_000, tracked_steps=1000, strided=50),
    ),
    # tanh: a valley flatter than its parabola, λ₂ at .5 to .6 of 2/η, ε .13 to .25.  Rejected at n=1000: swish (the
    # valley steepens as it trains, and gradient descent leaves θ† by 3 δ); softplus (λ₂ at the edge after 50 steps);
    # η=.1 (ε .35).
    "mlp-cats-dogs-logistic": _row(
        dict(dataset="cats-dogs", model="mlp", criterion="logistic", activation="tanh", kick=0.5, generalized=True),
        test=dict(n=200, width=16, learning_rate=0.03, edge_steps=1000, tracked_steps=50, image_size=16),
        quick=dict(n=1000, width=64, learning_rate=0.05, edge_steps=3000, tracked_steps=150, image_size=16),
        paper=dict(n=5000, width=200, learning_rate=0.05, edge_steps=6000, tracked_steps=1000, strided=50),
    ),
    # tanh: ε .08 to .19 and λ₂ at .8 to .93 of 2/η over 100 steps.  Rejected at n=1000: swish (λ₂ at the edge within 25
    # steps for η=.1, at the start for η=.05); tanh with η=.1 (λ₂ at .91 from the start).
    "mlp-cifar10-cross-entropy": _row(
        dict(dataset="cifar10", model="mlp", criterion="cross-entropy", activation="tanh", kick=0.5, generalized=True),
        test=dict(n=200, width=16, learning_rate=0.05, edge_steps=1000, tracked_steps=50, image_size=16),
        quick=dict(n=1000, width=64, learning_rate=0.05, edge_steps=3000, tracked_steps=100, image_size=16),
        paper=dict(n=5000, width=200, learning_rate=0.05, edge_steps=6000, tracked_steps=1000, strided=50),
    ),
    # At n=200: λ₂ .73 of 2/η and ε .10 at the edge.
    "cnn-cifar10": _row(
        dict(dataset="cifar10", model="cnn", criterion="squared-error", learning_rate=0.05, kick=0.5),
        test=dict(n=100, width=4, edge_steps=1000, tracked_steps=50, image_size=16),
        quick=dict(n=200, width=8, edge_steps=1500, tracked_steps=100, image_size=16, strided=0),
        paper=dict(n=5000, width=32, edge_steps=3000, tracked_steps=300, micro_batch=500, strided=0),
    ),
    # Transformer: one direction alone (λ₂ at .05 to .10 of 2/η).  Rejected: η=.05 (ε .46), η=.02 (ε .18, at
    # n=200).  BERT: ε .10 to .17 for n=100, .2 to .4 for n=1000.  Rejected: η=.05 (ε .30); η=.02, .01 (at the edge
    # once all is memorized: ε below .005).
    **{
        f"{model}-sst2": _row(
            dict(dataset="sst2", model=model, criterion="squared-error", kick=0.5, strided=0),
            test=dict(n=60, width=8, learning_rate=0.05, edge_steps=1500, tracked_steps=50),
            quick=dict(n=100, width=16, learning_rate=rate, edge_steps=2000, tracked_steps=100),
            paper=dict(n=1000, width=64, learning_rate=rate, edge_steps=3000, tracked_steps=300, micro_batch=250),
        )
        for model, rate in (("transformer", 0.01), ("bert-tiny", 0.03))
    },
    # Width 8, n=100: ε .13 and λ₂ .86 of 2/η at the edge.  Rejected: η=.02 (the edge within 16 steps, S 17 % past it).
    # Width 16: ε .157 at the edge for n=1000, .144 for n=2000 (benchmarks/search.json).  Not recorded there.
    "resnet18-cifar10": _row(
        dict(dataset="cifar10", model="resnet18", criterion="squared-error", kick=0.5, strided=0),
        test=dict(n=20, width=4, learning_rate=0.001, edge_steps=500, tracked_steps=25, image_size=16),
        quick=dict(n=100, width=8, learning_rate=0.01, edge_steps=500, tracked_steps=50, image_size=16),
        paper=dict(n=2000, width=16, learning_rate=0.01, edge_steps=1000, tracked_steps=100, micro_batch=500),
    ),
    # At quick scale ε .03 and 264 steps to the edge; for n=1000 ε .04 to .07, and λ₂ at 1.9/η after 50 steps.  Its head
    # does not start at zero: S is 800 at first, thousands with 16×16 images, whose last layers normalize few numbers.
    "vgg11-cifar10": _row(
        dict(dataset="cifar10", model="vgg11", criterion="squared-error", kick=0.5, strided=0),
        test=dict(n=20, width=8, learning_rate=0.005, edge_steps=500, tracked_steps=25),
        quick=dict(n=100, width=16, learning_rate=0.001, edge_steps=500, tracked_steps=50),
        paper=dict(n=1000, width=16, learning_rate=0.001, edge_steps=1000, tracked_steps=300, micro_batch=250),
    ),
}

# The ten classes until several eigenvalues are at the edge: with as many directions, with the central flow beside them
# (a third of the cost), and with one direction alone.
_TABLE |= {
    f"mlp-cifar10-{kind}": {
        scale: row | dict(restart_every=100, transport=0, strided=0, **extra, tracked_steps=steps)
        for (scale, row), steps in zip(_TABLE["mlp-cifar10"].items(), (50, 900, 2000), strict=True)
    }
    for kind, extra in {
        "directions": dict(directions=6), "central-flow": dict(directions=6, central=1), "one-direction": {},
    }.items()
}  # fmt: skip
_TABLE["mlp-cifar10-directions"]["paper"] |= dict(directions=8)  # at η = .02 eight are at the edge after 1,300

# The start of the paper's procedure: where S reaches 2/η, without a kick.  |x| is then whatever training left along u,
# and the first blow-up is higher.
_TABLE |= {
    f"{name}-natural": {
        scale: row | dict(kick=0.0, transport=0, tracked_steps=steps)
        for (scale, row), steps in zip(_TABLE[name].items(), (80, 200, 400), strict=True)
    }
    for name in ("mlp-cats-dogs", "mlp-cifar10")
}

# The CNN at a size at which several seeds are affordable without a GPU, and a narrow ResNet-18 on more images than the
# 100 of quick scale, which it memorizes within a cycle: its α turns negative.  On 500 ε is .2 to .35.
_TABLE["cnn-cifar10-n1000"] = _TABLE["cnn-cifar10"] | {
    "paper": _TABLE["cnn-cifar10"]["paper"] | dict(n=1000, tracked_steps=50, micro_batch=5)
}
_TABLE["resnet18-cifar10-n500"] = _TABLE["resnet18-cifar10"] | {
    "paper": _TABLE["resnet18-cifar10"]["quick"] | dict(n=500, tracked_steps=75, micro_batch=50)
}

# As published: no kick, t = 0 by the midpoint rule, predictions from there on, gradients in float64, swish, the
# generalized prediction, and the released shape of each network.  The CNN's steps are as many as a GPU's time allowed.
_TABLE |= {
    f"{name}-published": {
        scale: row | dict(kick=0.0, transport=0, start=0.0, midpoint=True, gradient_dtype="float64", generalized=True)
        | dict(activation="swish", model=row["model"] + shape, tracked_steps=steps)
        for (scale, row), steps in zip(_TABLE[name].items(), (50, 100, longest), strict=True)
    }
    for name, shape, longest in (
        ("mlp-cats-dogs", "", 1000), ("mlp-cats-dogs-logistic", "", 1000), ("mlp-cifar10", "", 1000),
        ("mlp-cifar10-cross-entropy", "", 400), ("cnn-cifar10", "", 75), ("transformer-sst2", "-released", 300),
        ("resnet18-cifar10", "-released", 100),
    )
}  # fmt: skip
_TABLE["cnn-cifar10"]["paper"] |= dict(micro_batch=5)  # few samples at once suit CPUs, one of which continued it
_TABLE["transformer-sst2"]["paper"] |= dict(micro_batch=4)  # the same; a CPU recorded it

# The first experiment with other activations.  At quick scale ε .06 to .16 and λ₂ .5 to .83 of 2/η throughout.  relu is
# included to fail: no third derivative accounts for its kinks.
_TABLE |= {
    f"mlp-cats-dogs-{activation}": {
        scale: row | dict(activation=activation, tracked_steps=steps)
        for (scale, row), steps in zip(_TABLE["mlp-cats-dogs"].items(), (50, 150, 300), strict=True)
    }
    for activation in ACTIVATIONS[1:]
}

# At the size of quick scale, to be recorded from several seeds: each network, criterion and activation that a build has
# from one seed or not at all.  VGG-11, rejected: η=.001 (ε .037, and .014 two cycles later), η=.002 (ε .18).
_TABLE |= {
    f"{name}-small": {
        "test": _TABLE[name]["test"], "quick": _TABLE[name]["quick"], "paper": _TABLE[name]["quick"] | other,
    }
    for name, other in {
        **{f"mlp-cats-dogs-{kind}": {} for kind in (*ACTIVATIONS[1:], "logistic")},
        "mlp-cifar10-cross-entropy": {}, "cnn-cifar10": {}, "transformer-sst2": {}, "bert-tiny-sst2": {},
        "resnet18-cifar10": dict(tracked_steps=100), "vgg11-cifar10": dict(learning_rate=0.0015, tracked_steps=150),
        **{f"{each}-published": dict(tracked_steps=200) for each in ("cnn-cifar10", "transformer-sst2")},
    }.items()
}  # fmt: skip


def names() -> tuple[str, ...]:
    """Return the names of all experiments."""
    return tuple(_TABLE)


def get(name: str, scale: str = "quick", **overrides) -> Setting:
    """Return the named experiment at a scale, with any field overridden.

    Raises:
        ValueError: on an unknown name, scale, field or value; the message lists what is known.
    """
    check_known("setting", name, _TABLE)
    check_known("scale", scale, SCALES)
    for field in overrides:
        check_known("field of Setting", field, sorted(f.name for f in dataclasses.fields(Setting)))
    return Setting(**({"name": name, "scale": scale} | _TABLE[name][scale] | overrides))
