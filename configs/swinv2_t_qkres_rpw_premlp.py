r"""SwinV2-T with residual, continuous weights, and an MLP before attention at every stage.

    python train.py --config=configs/swinv2_t_qkres_rpw_premlp.py         # ImageNet, 256, window 8, 300 epochs
    python train.py --config=configs/swinv2_t_qkres_rpw_premlp.py:digits  # embedded data, a small model of its kind

Published: no result; the architecture is that of the study's V2 code.
Measured: not yet run.
"""

from configs import base, recipes
from convnn_jax.models import presets


def get_config(data="imagenet"):
  config = base.get_config()
  config.model = presets.model("swinv2_tiny_w8_qkres_rpw_premlp")
  recipes.swin_imagenet(config)
  return base.with_data(config, data, image_size=256)
