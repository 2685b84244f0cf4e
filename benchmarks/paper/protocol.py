"""The networks that are compared, their training, and the results that the author published."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

# By the paper's names, with those of `architectures`. The paper's Swish has beta = 1: SiLU.
ACTIVATIONS = {"Mish": "mish_cuda", "Swish": "SiLU", "ReLU": "ReLU", "GELU": "GELU"}
SUBJECT = "Mish"  # which each of the others is compared with

# Adam with its default betas, a constant learning rate, no weight decay, cross-entropy. `width` is
# the number of channels of the first stage, `seeds` how often each activation is trained.
# For CIFAR as in the author's notebook, which holds a run of SENet-18 with Mish on CIFAR-10:
# https://github.com/digantamisra98/Mish/blob/3fa1cab144b223fb1ec76a4a1aa70c3ae2ede93d/Examples%20and%20Benchmarks/cifar-10-senet18-mish.ipynb
# For digits the same optimiser, and a network and batches that suit 896 images of 8 x 8.
_CIFAR = {"seeds": 5, "epochs": 100, "width": 64, "batch_size": 128, "learning_rate": 1e-3}
DEFAULTS = {
    "digits": {"seeds": 10, "epochs": 20, "width": 16, "batch_size": 32, "learning_rate": 1e-3},
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
}

# Accuracies in percent that the paper's author published, mean and standard deviation, by networks
# and activation. None was measured here. A single run has no deviation. The Squeeze Net is not
# SENet-18, and was trained for 50 epochs.
_TABLE = pd.read_csv(Path(__file__).with_name("published.csv"), index_col="activation")
PUBLISHED = dict(list(_TABLE.groupby("networks", sort=False)))
# Of the 23 runs, by an unpaired t-test: scipy.stats.ttest_ind_from_stats gives 0.197 for Swish.
PUBLISHED_P = {"Mish": "", "Swish": "0.1973", "ReLU": "< 0.0001", "GELU": "0.4003"}
