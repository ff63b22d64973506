r"""A convolution over 9 tokens in place of attention in ViT-Tiny, one head, in the published training set-up.

    python train.py --config=configs/conv1d.py           # CIFAR-10, 224/16, 150 epochs
    python train.py --config=configs/conv1d.py:digits    # embedded data, about a minute on a laptop

Published with other settings only: 63.53 % (ViT-Tiny, best of 10 epochs, run Mingi_results/VIT-Tiny/Conv1dAttention).
Measured (2 CPU cores of a busy virtual machine, jax 0.10.2, 2026-11-21): digits as above, test top-1
97.78 %. CIFAR-10: not yet run.
"""

from configs import base


def get_config(data="cifar10"):
  config = base.get_config()
  config.model.attention = dict(
    name="conv1d",
    num_heads=1,
    kernel_size=9,
  )
  return base.with_data(config, data)
