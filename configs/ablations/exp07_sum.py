r"""Experiment 7 of the ConvNN notes: the k chosen similarities are divided by their sum.

    python train.py --config=configs/ablations/exp07_sum.py           # CIFAR-10, 224/16, 50 epochs
    python train.py --config=configs/ablations/exp07_sum.py:digits    # embedded data, a minute

Published: an idea of the notes that was never coded; w = s / sum(s) is our reading of it.
Measured here: not yet run.
"""

from configs.ablations import common


def get_config(data="cifar10"):
  return common.experiment(data, common.convnn(weighting="sum"))
