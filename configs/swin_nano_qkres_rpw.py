r"""Swin for small images with the residual on queries and keys and a weight per relative position.

    python train.py --config=configs/swin_nano_qkres_rpw.py          # CIFAR-10 at 32 pixels, patch 2, window 4
    python train.py --config=configs/swin_nano_qkres_rpw.py:fashion_mnist
    python train.py --config=configs/swin_nano_qkres_rpw.py:digits   # embedded data, about a minute on a laptop

Measured: not yet run.
"""

from configs import base, recipes
from convnn_jax.models import presets


def get_config(data="cifar10"):
  config = base.get_config()
  config.model = presets.model("swin_nano_qkres_rpw")
  recipes.swin_imagenet(config, crop="crop")
  config.batch_size = 256
  return base.with_data(config, data, image_size=32)
