r"""Sparse attention, a band of 49 tokens and one head, in ViT-Tiny, in the published training set-up.

    python train.py --config=configs/sparse.py           # CIFAR-10, 224/16, 150 epochs
    python train.py --config=configs/sparse.py:digits    # embedded data, about a minute on a laptop

Published (CIFAR-10, best of 150 epochs): top-1 73.34 %. Source: the run
Baseline_Test_Sparse/ViT-Tiny-CIFAR10/SparseAttention_Local_NH1_CW49_s42.
Measured (2 CPU cores of a busy virtual machine, jax 0.10.2, 2026-11-21): digits as above, test top-1 96.11 % after 25
epochs. CIFAR-10: not yet run.
"""

from configs import base


def get_config(data="cifar10"):
  config = base.get_config()
  config.model.attention = dict(
    name="sparse",
    num_heads=1,
    pattern="local",
    window=49,
    dropout_rate=0.1,
  )
  return base.with_data(config, data)
