r"""Experiment 2 of the ConvNN notes: only values are projected, tokens are compared as they are.

    python train.py --config=configs/ablations/exp02_v_only.py           # CIFAR-10, 224/16, 50 epochs
    python train.py --config=configs/ablations/exp02_v_only.py:digits    # embedded data, a minute

Published (CIFAR-10, best of 50 epochs): top-1 61.78 % without dropout after the convolution, 62.28 % with
coordinates; the 65 % of the notes is branching with this attention (exp03, 65.03 %). Source: the runs
Oct1-VIT-Tiny-Baseline/CIFAR10/ConvNNAttention_All_K9_s42_V_NoDropout and ..._All_Coord_K9_s42_V. The published model
also allocates the query and key projections that it does not use (889,344 parameters); ours has none.
Measured here: not yet run.
"""

from configs.ablations import common


def get_config(data="cifar10"):
  return common.experiment(data, common.convnn(projection="v"))
