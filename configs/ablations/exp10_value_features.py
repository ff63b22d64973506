r"""Experiment 10 of the ConvNN notes: heads are not split, values have d // h^2 = 192 // 9 = 21 channels (of 3 heads).

    python train.py --config=configs/ablations/exp10_value_features.py           # CIFAR-10, 224/16, 50 epochs
    python train.py --config=configs/ablations/exp10_value_features.py:digits    # embedded data, a minute

Published (CIFAR-10, best of 50 epochs): top-1 k = 9: 61.91 %; k = 16, 25, 36, 49, 64, 81, 100: 63.46, 64.43, 63.77,
64.13, 65.15, 65.16, 65.34 %. Source: the runs Oct6-VIT-Tiny-Sanity/CIFAR10/ConvNNAttention_All_K*_s42_NH3_NoSplitHead
of the published code.
Measured here: not yet run.
"""

from configs.ablations import common


def get_config(data="cifar10"):
  return common.experiment(data, common.convnn(split_heads=False, value_features=21, quirks=("self_fill",)))
