"""Accuracies in percent that the paper's author published. None was measured here."""

from __future__ import annotations

from dataclasses import dataclass

# As in https://arxiv.org/abs/1908.08681, with more digits and GELU. One run each.
SENET18_URL = "https://github.com/digantamisra98/Mish/blob/01037846a44f15a3dc8588756eab81ef3400631f/Notebooks/Readme.md"
SENET18 = {
    "cifar10": {"Mish": 90.526, "Swish": 89.4284, "ReLU": 90.1602, "GELU": 90.2294},
    "cifar100": {"Mish": 64.3888, "Swish": 63.8944, "ReLU": 62.7176, "GELU": 63.795},
}


@dataclass(frozen=True)
class Runs:
    """Several runs with one activation; `p` is that of a test against those with Mish."""

    mean: float
    std: float
    p: str


# 23 runs of a Squeeze Net (not of SENet-18) on CIFAR-10, 50 epochs. The ps are those of an unpaired
# t-test: scipy.stats.ttest_ind_from_stats gives 0.197 for Swish.
SQUEEZENET_URL = (
    "https://github.com/digantamisra98/Mish/blob/0004347eb34797b751ae81495933672d96e18d13/README.md"
)
SQUEEZENET = {
    "Mish": Runs(87.48, 0.3967, ""),
    "Swish": Runs(87.32, 0.414, "0.1973"),
    "ReLU": Runs(86.66, 0.584, "< 0.0001"),
    "GELU": Runs(87.37, 0.472, "0.4003"),
}
