r"""ConvNN on half of the channels and softmax attention on the other in ViT-Tiny, in the published training set-up.

    python train.py --config=configs/branching_attention.py           # CIFAR-10, 224/16, 150 epochs
    python train.py --config=configs/branching_attention.py:digits    # embedded data, about a minute on a laptop

Published (CIFAR-10, best of 150 epochs): top-1 76.99 %. Source: the run
lr_test/ViT-Tiny-CIFAR10_1e-4/BranchAttention_depthwise_K9_s42 of the published code.
Measured (2 CPU cores of a busy virtual machine, jax 0.10.2, 2026-11-21): digits as above, test top-1
96.94 %. CIFAR-10: not yet run.
"""

from configs import base


def get_config(data="cifar10"):
  config = base.get_config()
  config.model.attention = dict(
    name="branching",
    ratio=0.5,
    first=dict(
      name="convnn", num_heads=1, num_neighbors=9, similarity="dot", weighting="softmax", dropout_rate=0.1
    ),
    second=dict(name="softmax", num_heads=1, dropout_rate=0.1),
  )
  return base.with_data(config, data)
