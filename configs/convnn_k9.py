r"""ConvNN attention with 9 neighbours in ViT-Tiny: the published final run.

    python train.py --config=configs/convnn_k9.py              # CIFAR-10, 224/16, 150 epochs
    python train.py --config=configs/convnn_k9.py:digits       # embedded data, about a minute on a laptop

Published (CIFAR-10, best of 150 epochs, two runs): top-1 74.39 % and 75.33 %.
"""

from configs import base


def get_config(data="cifar10"):
  config = base.get_config()
  config.model.attention = dict(
    name="convnn",
    num_heads=1,
    num_neighbors=9,
    similarity="dot",
    weighting="softmax",
    convolution="depthwise",
    dropout_rate=0.1,
  )
  return base.with_data(config, data)
