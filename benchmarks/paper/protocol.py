"""The networks that are compared, their training, and the results that the author published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

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
# A single run has no deviation. The Squeeze Net is not SENet-18, and was trained for 50 epochs.
_TABLE = pd.read_csv(Path(__file__).with_name("published.csv")).set_index("activation")
PUBLISHED = {
    networks: {name: (mean, std) for name, mean, std in of[["mean", "std"]].itertuples()}
    for networks, of in _TABLE.groupby("networks", sort=False)
}
# Of the 23 runs, by an unpaired t-test: scipy.stats.ttest_ind_from_stats gives 0.197 for Swish.
PUBLISHED_P = {"Mish": "", "Swish": "0.1973", "ReLU": "< 0.0001", "GELU": "0.4003"}
