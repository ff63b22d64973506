r"""Experiment 13 of the ConvNN notes: queries and keys are projected, values are the tokens as they are.

    python train.py --config=configs/ablations/exp13_no_value.py           # CIFAR-10, 224/16, 50 epochs
    python train.py --config=configs/ablations/exp13_no_value.py:digits    # embedded data, a minute

Published (CIFAR-10, best of 50 epochs): top-1 one head, k = 9: 65.56 %; k = 4, 16: 63.42, 66.93 %; three heads, k =
9: 61.78 % (--config.model.attention.num_heads=3). Source: the runs
Oct10-VIT-Tiny-Sanity/CIFAR10/ConvNNAttention_All_K*_s42_NH*_KQ of the published code.
Measured here: not yet run.
"""

from configs.ablations import common


def get_config(data="cifar10"):
  return common.experiment(data, common.convnn(num_heads=1, projection="qk"))
