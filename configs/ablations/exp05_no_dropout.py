r"""Experiment 5 of the ConvNN notes: no dropout after the convolution over neighbours.

    python train.py --config=configs/ablations/exp05_no_dropout.py           # CIFAR-10, 224/16, 50 epochs
    python train.py --config=configs/ablations/exp05_no_dropout.py:digits    # embedded data, a minute

Published (CIFAR-10, best of 50 epochs): top-1 63.40 %. Source: the run
Oct1-VIT-Tiny-Baseline/CIFAR10/ConvNNAttention_All_K9_s42_KQV_NoDropout of the published code.
Measured here: not yet run.
"""

from configs.ablations import common


def get_config(data="cifar10"):
  return common.experiment(data, common.convnn(dropout_rate=0.0))
