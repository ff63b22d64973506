r"""ConvNN on half of the channels and a convolution on the other in ViT-Tiny, in the published training set-up.

    python train.py --config=configs/branching_conv.py           # CIFAR-10, 224/16, 150 epochs
    python train.py --config=configs/branching_conv.py:digits    # embedded data, about a minute on a laptop

Published with other settings only: 64.87 % (one head, cosine, standard convolution, 50 epochs, run
Oct6-VIT-Tiny-Sanity).
Measured (2 CPU cores of a busy virtual machine, jax 0.10.2, 2026-11-21): digits as above, test top-1
97.50 %. CIFAR-10: not yet run.
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
    second=dict(name="conv1d", num_heads=1, kernel_size=9),
  )
  return base.with_data(config, data)
