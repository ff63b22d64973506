r"""Experiment 3 of the ConvNN notes: ConvNN on half of the channels, softmax attention on the other.

    python train.py --config=configs/ablations/exp03_branching_attention.py           # CIFAR-10, 224/16, 50 epochs
    python train.py --config=configs/ablations/exp03_branching_attention.py:digits    # embedded data, a minute

Published (CIFAR-10, best of 50 epochs): top-1 64.40 %; 65.03 % with --config.model.attention.first.projection=v.
Source: the runs Oct1-VIT-Tiny-Baseline/CIFAR10/BranchAttention_ConvNNAttention_All_K9_br0500_s42_KQV and ..._V of the
published code.
Measured here: not yet run.
"""

from configs.ablations import common


def get_config(data="cifar10"):
  attention = dict(
    name="branching",
    ratio=0.5,
    first=common.convnn(),
    second=dict(name="softmax", num_heads=3, dropout_rate=0.1, qkv_bias=True, out_bias=True),
  )
  return common.experiment(data, attention)
