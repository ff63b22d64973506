r"""SwinMLP, tiny, heads of 24 channels.

    python train.py --config=configs/swin_mlp_t.py         # ImageNet, 256, window 8, 300 epochs
    python train.py --config=configs/swin_mlp_t.py:digits  # embedded data, a small model of its kind

Published (ImageNet-1k): top-1 79.4 %, top-5 94.6 %.
Measured: not yet run.
"""

from configs import base, recipes
from convnn_jax.models import presets


def get_config(data="imagenet"):
  config = base.get_config()
  config.model = presets.model("swin_mlp_tiny_c24")
  recipes.swin_imagenet(config)
  return base.with_data(config, data, image_size=256)
