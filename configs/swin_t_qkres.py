r"""Swin-T whose queries and keys keep their tokens as a residual.

    python train.py --config=configs/swin_t_qkres.py         # ImageNet, 224, window 7, 300 epochs
    python train.py --config=configs/swin_t_qkres.py:digits  # embedded data, a small model of its kind

Published (ImageNet-1k): top-1 81.4 %, top-5 95.5 %.
Measured: not yet run.
"""

from configs import base, recipes
from convnn_jax.models import presets


def get_config(data="imagenet"):
  config = base.get_config()
  config.model = presets.model("swin_tiny_qkres")
  recipes.swin_imagenet(config)
  return base.with_data(config, data, image_size=224)
