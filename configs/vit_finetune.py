r"""A pretrained Vision Transformer, fine-tuned.

    python -m convnn_jax.convert B_16.npz --config=configs/vit_finetune.py:base,google,imagenet --out=runs/b16
    python train.py --config=configs/vit_finetune.py:base,google,cifar10 --config.init_from=runs/b16
    python train.py --config=configs/vit_finetune.py:digits    # embedded data, from scratch, a small model

The argument is any of, joined by commas: a size (tiny, small, base, large, huge), a side of patches (8, 14, 16, 32),
whose code the weights come from (google, timm, huggingface: their GELU and epsilon), and a data set (cifar10 and the
other presets of configs/base.py). `--config.data.image_size=384` resizes the positions. docs/checkpoints.md has more.

The recipe is the published one: SGD with momentum, batches of 512, a cosine, gradients clipped at 1, no weight decay;
the rate is to be chosen from 0.001, 0.003, 0.01, 0.03 for CIFAR and 0.003 to 0.06 for ImageNet.
Published (B/16 from ImageNet-21k, 384 pixels): CIFAR-10 98.95 %, ImageNet 83.97 %.
Measured: no pretrained weights could be fetched here; not yet run.
"""

from configs import base, recipes
from convnn_jax.errors import unknown_name
from convnn_jax.models import vit_presets

_PATCHES = ("8", "14", "16", "32")


def get_config(argument=""):
  words = dict(size="base", patch="16", source="timm", data="cifar10") | _read(argument)
  config = base.get_config()
  config.model = vit_presets.pretrained(words["size"], int(words["patch"]), words["source"])
  recipes.vit_finetune(config)
  config = base.with_data(config, words["data"], image_size=224)
  if words["data"] == "digits":  # nothing is pretrained for them
    config.optimizer.name = "adamw"
  return config


def _read(argument):
  tables = dict(size=vit_presets.SIZES, patch=_PATCHES, source=vit_presets.SOURCES)
  found = {}
  for word in filter(None, argument.split(",")):
    kind = next((kind for kind, known in tables.items() if word in known), None)
    if kind is None and word.partition("=")[0] not in base.PRESETS:
      known = [*vit_presets.SIZES, *_PATCHES, *vit_presets.SOURCES, *base.PRESETS]
      raise unknown_name("word of the argument", word, known)
    found[kind or "data"] = word
  return found
