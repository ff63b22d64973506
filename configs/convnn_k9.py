r"""ConvNN attention with 9 neighbours in ViT-Tiny: the published final run.

    python train.py --config=configs/convnn_k9.py              # CIFAR-10, 224/16, 150 epochs
    python train.py --config=configs/convnn_k9.py:digits       # embedded data, about a minute on a laptop

Published (CIFAR-10, best of 150 epochs, two runs): top-1 74.39 % and 75.33 %.
Measured (2 CPU cores of a busy virtual machine, jax 0.10.2, 2026-11-21):
- digits as above: test top-1 97.22 % after 25 epochs, 36 s of training, 53 s in all.
- Fashion-MNIST, a small model, one epoch: test top-1 78.24 %, loss 0.6015, about two minutes of training, with
    python train.py --config=configs/convnn_k9.py:fashion_mnist --config.num_epochs=1 --config.batch_size=128 \
      --config.model.width=64 --config.model.depth=4 --config.model.mlp_dim=128 --config.optimizer.learning_rate=1e-3
- CIFAR-10: not yet run.
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
