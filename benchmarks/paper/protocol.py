"""The networks that are compared, their training, and the results that the author published."""

from __future__ import annotations

from dataclasses import dataclass

# By the paper's names, with those of `architectures`. The paper's Swish has beta = 1: SiLU.
ACTIVATIONS = {"Mish": "mish_cuda", "Swish": "SiLU", "ReLU": "ReLU", "GELU": "GELU"}
SUBJECT = "Mish"  # which each of the others is compared with


@dataclass(frozen=True)
class Settings:
    """All that defines the training of a network but its activation and seed.

    Adam with its default betas, a constant learning rate, no weight decay, cross-entropy. `width`
    is the number of channels of the network's first stage.
    """

    dataset: str
    width: int = 64
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-3
    threads: int = 1


# For CIFAR those of the author's notebook, which holds a run of SENet-18 with Mish on CIFAR-10:
# https://github.com/digantamisra98/Mish/blob/3fa1cab144b223fb1ec76a4a1aa70c3ae2ede93d/Examples%20and%20Benchmarks/cifar-10-senet18-mish.ipynb
# For digits the same optimiser, and a network and batches that suit 896 images of 8 x 8.
DEFAULTS = {
    "digits": Settings("digits", width=16, epochs=20, batch_size=32),
    "cifar10": Settings("cifar10"),
    "cifar100": Settings("cifar100"),
}
SEEDS = {"digits": 10, "cifar10": 5, "cifar100": 5}

# Accuracies in percent that the paper's author published, mean and standard deviation. None was
# measured here. Of SENet-18 as in https://arxiv.org/abs/1908.08681, with more digits and GELU.
PUBLISHED_URLS = (
    "https://github.com/digantamisra98/Mish/blob/01037846a44f15a3dc8588756eab81ef3400631f/Notebooks/Readme.md",
    "https://github.com/digantamisra98/Mish/blob/0004347eb34797b751ae81495933672d96e18d13/README.md",
)
_ONE = float("nan")  # the deviation of a single run
PUBLISHED = {
    "CIFAR-10, SENet-18, one run": {
        "Mish": (90.526, _ONE),
        "Swish": (89.4284, _ONE),
        "ReLU": (90.1602, _ONE),
        "GELU": (90.2294, _ONE),
    },
    "CIFAR-100, SENet-18, one run": {
        "Mish": (64.3888, _ONE),
        "Swish": (63.8944, _ONE),
        "ReLU": (62.7176, _ONE),
        "GELU": (63.795, _ONE),
    },
    # A Squeeze Net (not SENet-18), 50 epochs.
    "CIFAR-10, Squeeze Net, 23 runs": {
        "Mish": (87.48, 0.3967),
        "Swish": (87.32, 0.414),
        "ReLU": (86.66, 0.584),
        "GELU": (87.37, 0.472),
    },
}
# Of the 23 runs, by an unpaired t-test: scipy.stats.ttest_ind_from_stats gives 0.197 for Swish.
PUBLISHED_P = {"Mish": "", "Swish": "0.1973", "ReLU": "< 0.0001", "GELU": "0.4003"}
