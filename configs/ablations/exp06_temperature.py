r"""Experiment 6 of the ConvNN notes: softmax with a temperature over the k chosen similarities.

    python train.py --config=configs/ablations/exp06_temperature.py           # CIFAR-10, 224/16, 50 epochs
    python train.py --config=configs/ablations/exp06_temperature.py:digits    # embedded data, a minute

Published (CIFAR-10, best of 50 epochs): top-1 59.33 % at temperature 1, the only one run. Source: the run
Oct1-VIT-Tiny-Baseline/CIFAR10/ConvNNAttention_All_K9_s42_KQV_Temp of the published code. (The listing in the notes
multiplies by the raw similarities; the committed code that was run by the softmax.)
Measured here: not yet run.
"""

from configs.ablations import common


def get_config(data="cifar10"):
  return common.experiment(data, common.convnn(weighting="softmax", temperature=1.0))
