r"""Experiment 9 of the ConvNN notes: one head, so that the convolution sees the whole width.

    python train.py --config=configs/ablations/exp09_one_head.py           # CIFAR-10, 224/16, 50 epochs
    python train.py --config=configs/ablations/exp09_one_head.py:digits    # embedded data, a minute

Published (CIFAR-10, best of 50 epochs): top-1 k = 9: 66.02 %; k = 4, 16, 25, 36, 49: 64.55, 66.91, 67.17, 67.64,
67.75 % (--config.model.attention.num_neighbors=36). Source: the runs
Oct6-VIT-Tiny-Sanity/CIFAR10/ConvNNAttention_All_K*_s42_NH1 of the published code; softmax attention with one head
reached 67.32 % there.
Measured here: not yet run.
"""

from configs.ablations import common


def get_config(data="cifar10"):
  return common.experiment(data, common.convnn(num_heads=1))
