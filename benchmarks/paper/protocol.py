"""What is compared, and how each network is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from benchmarks.environment import Environment

# By the paper's names, with those of benchmarks.networks. The paper's Swish has beta = 1: SiLU.
ACTIVATIONS = {"Mish": "mish_cuda", "Swish": "SiLU", "ReLU": "ReLU", "GELU": "GELU"}
SUBJECT = "Mish"  # which each of the others is compared with


@dataclass(frozen=True)
class Settings:
    """What defines the training of a network, but for its activation and seed.

    Adam with its default betas, a constant learning rate, no weight decay, cross-entropy. `width`
    is the number of channels of the network's first stage.
    """

    dataset: str
    width: int
    epochs: int
    batch_size: int
    learning_rate: float
    threads: int


@dataclass(frozen=True)
class Default:
    """What a data set is trained with where nothing else is asked for."""

    seeds: int
    width: int = 64
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-3


# For CIFAR those of the author's notebook, which holds a run of SENet-18 with Mish on CIFAR-10:
# https://github.com/digantamisra98/Mish/blob/3fa1cab144b223fb1ec76a4a1aa70c3ae2ede93d/Examples%20and%20Benchmarks/cifar-10-senet18-mish.ipynb
# For digits the same optimiser, and a network and batches that suit 896 images of 8 x 8.
DEFAULTS = {
    "digits": Default(seeds=10, width=16, epochs=20, batch_size=32),
    "cifar10": Default(seeds=5),
    "cifar100": Default(seeds=5),
}


def identity(settings: Settings, environment: Environment) -> dict[str, str]:
    """What two runs must have in common to be compared, as text by name."""
    place = ("device", "cpu_capability", "backend", "mish_cuda", "torch")
    return {
        **{name: str(value) for name, value in asdict(settings).items()},
        **{name: str(getattr(environment, name)) for name in place},
    }
