r"""A SwinMLP for images of 32 pixels.

    python train.py --config=configs/swin_mlp_nano.py          # CIFAR-10 at 32 pixels, patch 2, window 4
    python train.py --config=configs/swin_mlp_nano.py:fashion_mnist
    python train.py --config=configs/swin_mlp_nano.py:digits   # embedded data, about a minute on a laptop

Measured: not yet run.
"""

from configs import base, recipes
from convnn_jax.models import presets


def get_config(data="cifar10"):
  config = base.get_config()
  config.model = presets.model("swin_mlp_nano")
  recipes.swin_imagenet(config, crop="crop")
  config.batch_size = 256
  return base.with_data(config, data, image_size=32)
