r"""ConvNN attention with 9 neighbours in Swin's windows, for images of 32 pixels.

    python train.py --config=configs/swin_nano_convnn.py          # CIFAR-10 at 32 pixels, patch 2, window 4
    python train.py --config=configs/swin_nano_convnn.py:digits   # embedded data, about a minute on a laptop

Any registered attention can stand in the windows; a tuple gives each stage its own value. Measured: not yet run.
"""

from configs import base, recipes
from convnn_jax.models import presets


def get_config(data="cifar10"):
  config = base.get_config()
  config.model = presets.model("swin_nano")
  config.model.attention = dict(name="convnn", num_heads=(2, 4, 8), num_neighbors=9, dropout_rate=0.0)
  recipes.swin_imagenet(config, crop="crop")
  config.batch_size = 256
  return base.with_data(config, data, image_size=32)
