r"""Redundancy in attention: a small Swin and the study's additions one upon another, three seeds each.

    python train.py --config=configs/swin_redundancy.py                          # Swin nano on CIFAR-10, 32 pixels
    python train.py --config=configs/swin_redundancy.py:qkres_rpw,fashion_mnist  # one of its variants
    python train.py --config=configs/swin_redundancy.py:qkres,fashion_mnist,small  # minutes on two CPU cores
    python train.py --config=configs/swin_redundancy.py:qkres,digits             # embedded data, 15 epochs, a minute
    python -m convnn_jax.report.sweep --config=configs/swin_redundancy.py:digits --jobs=2

The argument is any of, joined by commas: a variant (a key of VARIANTS), a data set (a preset of configs/base.py), and
`small`: the model of digits, images of 16 pixels, one epoch. `sweep(argument)` lists every variant with three seeds,
`baseline` is the plain model. What a variant adds: `qkres` the tokens to their queries and keys; `rpw` a weight per
relative position; `premlp` an MLP in front of the first attention, `premlp_stage` of each stage's; `sw_mlp` a branch
that mixes positions in complementary windows.

Published: none at this size; with Swin-T on ImageNet each of qkres, rpw and premlp gains 0.1 to 0.2 points of top-1.
Measured (2 busy CPU cores, jax 0.10.2, 2026-11-22), test top-1, three seeds: `:digits`, 15 epochs, plain 85.46 %, qkres
76.94 %, qkres_rpw 88.52 %, with premlp 88.70 %, sw_mlp 97.78 %, deviations up to 4.8; `:fashion_mnist,small`, one
epoch, 79.73 %, 80.57 %, 81.34 %, 81.39 % and 84.97 %, deviations up to 0.6:
benchmarks/results/2026-11-22-cpu-swin-redundancy.md.
"""

from configs import base, recipes
from convnn_jax.errors import unknown_name
from convnn_jax.models import presets

# name -> preset, and fields of the model that differ from it
VARIANTS = {
  "plain": ("swin_nano", {}),
  "qkres": ("swin_nano_qkres", {}),
  "qkres_rpw": ("swin_nano_qkres_rpw", {}),
  "qkres_rpw_premlp": ("swin_nano_qkres_rpw_premlp", {}),
  "qkres_rpw_premlp_stage": ("swin_nano_qkres_rpw", dict(pre_mlp="stage")),
  "sw_mlp": ("swin_nano", dict(sw_mlp="spatial")),
  "v2": ("swinv2_nano", {}),
  "v2_qkres_rpw_premlp_stage": ("swinv2_nano_qkres_rpw_premlp", {}),
}
SEEDS = (0, 1, 2)


def get_config(argument=""):
  words = parse(argument)
  preset, changes = VARIANTS[words["variant"]]
  config = base.get_config()
  config.model = presets.model(preset)
  config.model.update(changes)
  recipes.swin_imagenet(config, crop="crop")
  config.batch_size = 256
  base.with_data(config, words["data"], image_size=32)
  if words["data"] == "digits":
    config.num_epochs = 15
    config.optimizer.warmup_epochs = 2.0
  elif words["small"]:
    base.shrink(config)
    config.update(batch_size=64, eval_batch_size=1000, num_epochs=1, log_every=100)
    config.data.update(image_size=16, augment=("flip",) if "flip" in config.data.augment else ())
    config.model.patch_size = 2
    config.optimizer.update(learning_rate=2e-3, warmup_epochs=0.1)
  return config


def sweep(argument=""):
  """Overrides of every run: this file with the words of a variant, and the seed."""
  return [_run(argument, name) | {"seed": seed} for name in list(VARIANTS)[1:] for seed in SEEDS]


def baseline(argument=""):
  """Swin without additions."""
  return _run(argument, "plain")


def _run(argument, variant):
  words = parse(argument)
  return {
    "config": ",".join([f"configs/swin_redundancy.py:{variant}", words["data"], *["small"] * words["small"]])
  }


def parse(argument):
  """The argument's words as dict(variant, data, small), with defaults."""
  found = dict(variant="plain", data="cifar10", small=False)
  for word in filter(None, argument.split(",")):
    if word in VARIANTS:
      found["variant"] = word
    elif word == "small":
      found["small"] = True
    elif word.partition("=")[0] in base.PRESETS:
      found["data"] = word
    else:
      raise unknown_name("word of the study's argument", word, [*VARIANTS, *base.PRESETS, "small"])
  return found
