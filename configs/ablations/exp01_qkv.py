r"""Experiment 1 of the ConvNN notes: queries, keys and values projected; the base of the others.

    python train.py --config=configs/ablations/exp01_qkv.py           # CIFAR-10, 224/16, 50 epochs
    python train.py --config=configs/ablations/exp01_qkv.py:digits    # embedded data, a minute

Published (CIFAR-10, best of 50 epochs): top-1 63.46 %, 63.57 % in a second run. Source: the runs
Oct1-VIT-Tiny-Baseline/CIFAR10/ConvNNAttention_All_K9_s42_KQV and Oct6-VIT-Tiny-Sanity/..._NH3 of the published code.
Measured here: not yet run.
"""

from configs.ablations import common


def get_config(data="cifar10"):
  return common.experiment(data, common.convnn())
