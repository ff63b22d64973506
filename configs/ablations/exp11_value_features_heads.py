r"""Experiment 11 of the ConvNN notes: heads are not split, values have as many channels as there were heads, 3.

    python train.py --config=configs/ablations/exp11_value_features_heads.py           # CIFAR-10, 224/16, 50 epochs
    python train.py --config=configs/ablations/exp11_value_features_heads.py:digits    # embedded data, a minute

Published (CIFAR-10, best of 50 epochs): top-1 k = 9: 59.72 %; k = 4, 16, 25, 36, 49, 64: 57.63, 61.39, 60.33, 60.59,
61.18, 61.98 %. Source: the runs Oct6-VIT-Tiny-Sanity/CIFAR10/ConvNNAttention_All_K*_s42_NH3_NoSplitHead_Vout_NH3 of
the published code.
Measured here: not yet run.
"""

from configs.ablations import common


def get_config(data="cifar10"):
  return common.experiment(data, common.convnn(split_heads=False, value_features=3, quirks=("self_fill",)))
