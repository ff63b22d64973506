r"""Local attention, windows of 128 tokens and 3 heads of 64 channels, in ViT-Tiny, in the published training set-up.

    python train.py --config=configs/local.py           # CIFAR-10, 224/16, 150 epochs
    python train.py --config=configs/local.py:digits    # embedded data, about a minute on a laptop

Published (CIFAR-10, best of 150 epochs): top-1 74.51 %. Source: the run
Baseline_Test/ViT-Tiny-CIFAR10/LocalAttention_NH3_s42 of the published comparison; quirks=() corrects it.
Measured (2 CPU cores of a busy virtual machine, jax 0.10.2, 2026-11-21): digits as above, test top-1
98.89 %. CIFAR-10: not yet run.
"""

from configs import base


def get_config(data="cifar10"):
  config = base.get_config()
  config.model.attention = dict(
    name="local",
    num_heads=3,
    head_dim=64,
    window_size=128,
    quirks=("visible_padding", "shifted_rotary"),  # as published
    dropout_rate=0.1,
  )
  return base.with_data(config, data)
