r"""Swin-T with the residual on queries and keys and a weight per relative position.

    python train.py --config=configs/swin_t_qkres_rpw.py         # ImageNet, 224, window 7, 300 epochs
    python train.py --config=configs/swin_t_qkres_rpw.py:digits  # embedded data, a small model of its kind

Published (ImageNet-1k): top-1 81.6 %, top-5 95.6 %.
Measured: not yet run.
"""

from configs import base, recipes
from convnn_jax.models import presets


def get_config(data="imagenet"):
  config = base.get_config()
  config.model = presets.model("swin_tiny_qkres_rpw")
  recipes.swin_imagenet(config)
  return base.with_data(config, data, image_size=224)
