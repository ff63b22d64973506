r"""Experiment 12 of the ConvNN notes: a depthwise separable convolution over the whole width, heads not split.

    python train.py --config=configs/ablations/exp12_depthwise_separable.py           # CIFAR-10, 224/16, 50 epochs
    python train.py --config=configs/ablations/exp12_depthwise_separable.py:digits    # embedded data, a minute

Published (CIFAR-10, best of 50 epochs): top-1 k = 9: 60.87 %; k = 4, 16, 25, 36, 49: 57.90, 60.98, 60.48, 60.23,
59.61 %. Source: the runs Oct9-VIT-Tiny-Depthwise/CIFAR10/ConvNNAttention_Depthwise_All_K*_s42_noheads of the
published code.
Measured here: not yet run.
"""

from configs.ablations import common


def get_config(data="cifar10"):
  return common.experiment(
    data, common.convnn(split_heads=False, convolution="depthwise_separable", quirks=("self_fill",))
  )
