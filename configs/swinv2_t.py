r"""Swin Transformer V2, tiny, window 8.

    python train.py --config=configs/swinv2_t.py         # ImageNet, 256, window 8, 300 epochs
    python train.py --config=configs/swinv2_t.py:digits  # embedded data, a small model of its kind

Published (ImageNet-1k): top-1 81.8 %, top-5 95.9 %.
Measured: not yet run.
"""

from configs import base, recipes
from convnn_jax.models import presets


def get_config(data="imagenet"):
  config = base.get_config()
  config.model = presets.model("swinv2_tiny_w8")
  recipes.swin_imagenet(config)
  return base.with_data(config, data, image_size=256)
