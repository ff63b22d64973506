r"""The attention study: CNN, ViT, DeepViT and a hybrid on MNIST, CIFAR-10 and CIFAR-100, at three sizes.

    python train.py --config=configs/attention_study.py:hybrid,small,mnist      # one of its models
    python train.py --config=configs/attention_study.py:vit,base12,cifar10,published
    python train.py --config=configs/attention_study.py:deepvit,digits          # embedded data, about a minute

The argument is any of, joined by commas: a model (vit, cnn, deepvit, hybrid), a size (small, base12, base6), a data set
(cifar10 and the other presets of configs/base.py, with images as they are), and `published`, which also repeats what
the study did by accident: MNIST's mean and deviation for every data set, and a position table hundreds of times longer
than the sequence. `sweep(argument)` lists overrides for all models, sizes and three seeds, except for what the argument
fixes.

Protocol: Adam at 1e-4, times 0.7 after every epoch, batches of 64, 15 epochs, no augmentation, no weight decay. The
study reports the best test accuracy of all epochs (`best_test_top1` of result.json, chosen on the test set);
`test_top1`, after the last epoch, is the figure to trust. It shuffled training data on GPUs only; here they always are,
and the last partial batch of an epoch is left out.

Published (best test accuracy in %, sizes small -> base12 -> base6; MNIST, CIFAR-10, CIFAR-100):
CNN 97.05 then 98.70, 57.78 then 57.39, 22.05 then 22.38 (the same model in two runs);
ViT 97.87 -> 98.87 -> 98.81, 51.0 -> 58.70 -> 58.78, 19.72 -> 32.87 -> 32.32;
DeepViT 97.6 -> 98.54 -> 98.73, 48.03 -> 55.71 -> 56.07, 17.89 -> 29.32 -> 29.71;
Hybrid 99.2 -> 99.37 -> 99.35, 69.52 -> 73.02 -> 73.17, 34.97 -> 45.87 -> 46.11. Source: holestine/Attention.
Measured (2 busy CPU cores, 2026-11-22): `:small,digits`, test top-1 after 25 epochs, three seeds: CNN 98.98 %,
ViT 95.09 %, DeepViT 92.04 %, Hybrid 99.07 %; `:small,fashion_mnist`, one epoch, three seeds: 84.76, 83.98, 82.49 and
87.26 % (docs/attention_study.md). MNIST and CIFAR: not yet run.
"""

from configs import base
from convnn_jax.errors import unknown_name
from convnn_jax.models.study_presets import MODELS, SIZES, study_spec

# Images as they are stored; folders and ImageNet, which the study does not have, keep their preset's size.
_IMAGE_SIZES = {"mnist": 28, "fashion_mnist": 28, "cifar10": 32, "cifar100": 32, "digits": 8}


def get_config(argument="vit,small,cifar10"):
  choice = parse(argument)
  name = choice["data"].partition("=")[0]
  image_size = _IMAGE_SIZES.get(name, base.PRESETS[name]["image_size"])
  config = base.get_config()
  config.batch_size = 64
  config.eval_batch_size = 1000
  config.num_epochs = 15
  config.seed = 1
  positions = "published" if choice["published"] else "tokens"
  config.model = study_spec(choice["model"], choice["size"], image_size, positions=positions)
  config.optimizer.update(
    name="adam",
    learning_rate=1e-4,
    weight_decay=0.0,
    schedule="step",
    decay_every=1.0,
    decay_factor=0.7,
    clip_norm=0.0,
  )
  config = base.with_data(config, choice["data"])
  config.data.update(image_size=image_size, augment=())
  if name != "digits" and config.model.get("patch_size"):
    config.model.patch_size = image_size // 2  # four patches; the small digits keep their sixteen
  if choice["published"]:
    config.data.normalization = "mnist"
  return config


def sweep(argument=""):
  """Overrides of every run: models x sizes x seeds, without those that the argument fixes.

  Digits, which shrink the models anyway, are for the small size only.
  """
  given = _words(argument)
  start = get_config(argument).model.to_dict()
  sizes = [given["size"]] if "size" in given else ["small"] if given.get("data") == "digits" else list(SIZES)
  runs = []
  for model in [given["model"]] if "model" in given else MODELS:
    for size in sizes[:1] if model == "cnn" else sizes:  # the CNN has one size
      words = parse(argument) | dict(model=model, size=size)
      flags = [words["model"], words["size"], words["data"], *(["published"] if words["published"] else [])]
      change = _changes(start, get_config(",".join(flags)).model.to_dict(), "model")
      runs += [change | {"seed": seed} for seed in (1, 2, 3)]
  return runs


def _changes(start, end, section):
  """Dotted field -> value for the fields that both have and that differ; of the others the defaults are meant."""
  changes = {}
  for field in start.keys() & end.keys():
    if isinstance(end[field], dict):
      changes |= _changes(start[field], end[field], f"{section}.{field}")
    elif start[field] != end[field]:
      changes[f"{section}.{field}"] = end[field]
  return dict(sorted(changes.items()))


def parse(argument):
  """The argument's words as dict(model, size, data, published), with defaults."""
  return dict(model="vit", size="small", data="cifar10", published=False) | _words(argument)


def _words(argument):
  found = {}
  for word in filter(None, argument.split(",")):
    if word in MODELS:
      found["model"] = word
    elif word in SIZES:
      found["size"] = word
    elif word == "published":
      found["published"] = True
    elif word.partition("=")[0] in base.PRESETS:
      found["data"] = word
    else:
      raise unknown_name("word of the study's argument", word, [*MODELS, *SIZES, *base.PRESETS, "published"])
  return found
