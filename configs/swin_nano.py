r"""A Swin Transformer for images of 32 pixels.

    python train.py --config=configs/swin_nano.py          # CIFAR-10 at 32 pixels, patch 2, window 4
    python train.py --config=configs/swin_nano.py:fashion_mnist
    python train.py --config=configs/swin_nano.py:digits   # embedded data, about a minute on a laptop

Measured (2 CPU cores of a busy virtual machine, jax 0.10.2, 2026-11-21): digits as above, test top-1 97.50 % after 25
epochs, 96 s of training. CIFAR-10 and Fashion-MNIST: not yet run.
"""

from configs import base, recipes
from convnn_jax.models import presets


def get_config(data="cifar10"):
  config = base.get_config()
  config.model = presets.model("swin_nano")
  recipes.swin_imagenet(config, crop="crop")
  config.batch_size = 256
  return base.with_data(config, data, image_size=32)
