r"""A compact transformer (CCT, CVT, ViT-Lite) by its published name.

    python train.py --config=configs/cct.py:cct_7_3x1_32,cifar10
    python train.py --config=configs/cct.py:digits             # embedded data, a small model of its kind
    python -m convnn_jax.convert cct_7_3x1_32_cifar10_300epochs.pth --config=configs/cct.py:cct_7_3x1_32 --out=runs/cct7

The argument is a name of convnn_jax/models/presets.py, a data set of configs/base.py, or both, joined by a comma.
Images have the size that the variant was made for. The recipe is that of the published configuration files for
300 epochs.

Published (CCT-7/3x1, 300 epochs): CIFAR-10 96.53 %, CIFAR-100 80.92 %.
Measured: not yet run.
"""

from configs import base, recipes
from convnn_jax.errors import unknown_name
from convnn_jax.models import presets

_RECIPES = {"cifar10": "cifar10_300", "cifar100": "cifar100_300", "imagenet": "imagenet"}


def get_config(argument=""):
  name, data = "cct_7_3x1_32", "cifar10"
  for word in filter(None, argument.split(",")):
    if word in presets.COMPACT:
      name = word
    elif word.partition("=")[0] in base.PRESETS:
      data = word
    else:
      raise unknown_name("word of the argument", word, [*presets.COMPACT, *base.PRESETS])
  config = base.get_config()
  config.model = presets.model(name)
  recipes.recipe_b(config, _RECIPES.get(data, "cifar10_300"))
  return base.with_data(config, data, image_size=presets.COMPACT[name].image_size)
