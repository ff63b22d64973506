r"""Swin-T with the residual on queries and keys and a weight per relative position.

    python train.py --config=configs/swin_t_qkres_rpw.py         # ImageNet, 224, window 7, 300 epochs
    python train.py --config=configs/swin_t_qkres_rpw.py:digits  # embedded data, a small model of its kind

Published (ImageNet-1k): top-1 81.6 %, top-5 95.6 %.
Measured: not yet run.
"""

from configs import base, recipes
from convnn_jax.models.presets import preset


def get_config(data="imagenet"):
  config = base.get_config()
  sizes = preset("swin_tiny_qkres_rpw")
  config.data.image_size, config.model = sizes["image_size"], sizes["model"]
  recipes.swin_imagenet(config)
  return base.with_data(config, data, sizes="model")
