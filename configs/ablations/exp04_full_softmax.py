r"""Experiment 4 of the ConvNN notes: softmax over the whole row of similarities before the k largest are chosen.

    python train.py --config=configs/ablations/exp04_full_softmax.py           # CIFAR-10, 224/16, 50 epochs
    python train.py --config=configs/ablations/exp04_full_softmax.py:digits    # embedded data, a minute

Published (CIFAR-10, best of 50 epochs): top-1 54.43 %. Source: the run
Oct1-VIT-Tiny-Baseline/CIFAR10/ConvNNAttention_All_K9_s42_KQV_Softmax of the published code. The probabilities are
nearly equal (about 1 / n each) and not renormalised, so the values arrive about n times smaller.
Measured here: not yet run.
"""

from configs.ablations import common


def get_config(data="cifar10"):
  return common.experiment(data, common.convnn(weighting="full_softmax"))
