r"""Experiment 8 of the ConvNN notes: softmax over the k chosen similarities.

    python train.py --config=configs/ablations/exp08_topk_softmax.py           # CIFAR-10, 224/16, 50 epochs
    python train.py --config=configs/ablations/exp08_topk_softmax.py:digits    # embedded data, a minute

Published (CIFAR-10, best of 50 epochs): top-1 59.96 % with three heads; with one head and k = 4, 9, 16: 63.09, 63.91,
63.08 % (--config.model.attention.num_heads=1 --config.model.attention.num_neighbors=4). Source: the runs
Oct6-VIT-Tiny-Sanity/CIFAR10/ConvNNAttention_All_K9_s42_NH3_topksoftmax and ..._NH1_topksoftmax of the published code.
Measured here: not yet run.
"""

from configs.ablations import common


def get_config(data="cifar10"):
  return common.experiment(data, common.convnn(weighting="softmax"))
