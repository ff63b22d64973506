r"""Swin Transformer, tiny: the baseline of the study on redundancy.

    python train.py --config=configs/swin_t.py         # ImageNet, 224, window 7, 300 epochs
    python train.py --config=configs/swin_t.py:digits  # embedded data, a small model of its kind

Published (ImageNet-1k): top-1 81.2 %, top-5 95.5 % (81.3 % in the study).
Measured: not yet run.
"""

from configs import base, recipes
from convnn_jax.models import presets


def get_config(data="imagenet"):
  config = base.get_config()
  config.model = presets.model("swin_tiny")
  recipes.swin_imagenet(config)
  return base.with_data(config, data, image_size=224)
