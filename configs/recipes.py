"""Published training recipes. An experiment calls one before `base.with_data`; models and their drop path stay its own.

Values are those of the published training scripts and their configuration files. The compute dtype stays float32 where
they used mixed precision (set `dtype="bfloat16"` for it), and batch sizes are totals over all devices.
"""

from ml_collections import ConfigDict

from convnn_jax.errors import choose


def recipe_a(config: ConfigDict) -> ConfigDict:
  """The example script of the Compact Transformers (`examples/main.py`): CIFAR, 200 epochs, images of 32 pixels.

  AutoAugment's CIFAR-10 policy, crop with zero padding, flip; AdamW with decay on all parameters, no clipping; the
  rate is set once per epoch: five of hyperbolic warm-up, then a cosine to 0; label smoothing 0.1. With them go
  dropout 0, attention dropout 0.1 and stochastic depth 0.1 of the model.
  """
  config.update(batch_size=128, num_epochs=200)
  config.data.update(augment=("autoaugment", "crop", "flip"), policy="cifar10", crop_padding=4)
  config.data.normalization = "dataset"
  config.loss.update(name="cross_entropy", label_smoothing=0.1)
  _adamw(config, learning_rate=5e-4, weight_decay=3e-2, decay="all", clip_norm=0.0)
  config.optimizer.update(schedule_unit="epoch", warmup="hyperbolic", warmup_epochs=5.0)
  return config


# Files of the Compact Transformers' `configs/pretrained` and `configs/finetuned`: rate, its end, weight decay,
# warm-up's start, epochs, batch size, least area of a crop, probability of erasing, epochs with mixing (0 = all).
# ImageNet ran on 8 devices; the others on one.
_RECIPE_B = {
  "cifar10_300": (5.5e-4, 1e-5, 0.06, 1e-5, 300, 128, 0.8, 0.0, 175),
  "cifar10_1500": (5e-4, 1e-5, 0.05, 1e-5, 1500, 128, 0.8, 0.25, 0),
  "cifar10_5000": (5e-4, 1e-5, 0.05, 1e-5, 5000, 128, 0.8, 0.25, 0),
  "cifar100_300": (6e-4, 1e-5, 0.06, 1e-6, 300, 128, 0.8, 0.25, 0),
  "cifar100_1500": (7e-4, 1e-5, 0.05, 1e-6, 1500, 128, 0.8, 0.25, 0),
  "cifar100_5000": (5e-4, 1e-5, 0.05, 1e-6, 5000, 128, 0.8, 0.25, 0),
  "flowers102": (5e-4, 1e-5, 0.06, 1e-6, 300, 96, 0.8, 0.25, 0),
  "imagenet": (5e-4, 1e-5, 0.05, 1e-6, 300, 8 * 128, 0.08, 0.25, 0),
  "imagenet_384": (1e-5, 0.0, 0.0, 0.0, 30, 8 * 96, 0.08, 0.25, 0),
}


def recipe_b(config: ConfigDict, name: str = "cifar10_300") -> ConfigDict:
  """The configuration files of the Compact Transformers for PyTorch Image Models (`train.py`).

  Random resized crop, flip, RandAugment `rand-m9-mstd0.5-inc1`, then mixup 0.8 or CutMix 1.0 for every batch and after
  it random erasing of single pixels' noise; AdamW without decay on biases and vectors, no clipping; the rate is set
  once per epoch: linear warm-up, which replaces the beginning of a cosine over all epochs, then 10 epochs at its end
  (hence 310 for "300 epochs"); label smoothing 0.1.

  Args:
    config: changed in place.
    name: a published run, a key of _RECIPE_B.
  """
  peak, final, decay, start, epochs, batch, area, erase, mix = choose("recipe B run", name, _RECIPE_B)
  config.update(batch_size=batch, num_epochs=epochs + 10)
  erasing = ("erasing",) if erase else ()
  config.data.update(
    augment=("resized_crop", "flip", "randaugment", "mixup", "cutmix", *erasing),
    crop_area=(area, 1.0),
    interpolation="random",
    mix_epochs=float(mix),
    normalization="dataset",
  )
  if name.startswith("imagenet"):
    config.data.center_fraction = 0.9 if name == "imagenet" else 1.0
  _mixing_and_randaugment(config)
  config.loss.update(name="cross_entropy", label_smoothing=0.1)
  _adamw(config, learning_rate=peak, weight_decay=decay, decay="matrices", clip_norm=0.0)
  config.optimizer.update(
    final_learning_rate=final,
    schedule_unit="epoch",
    warmup_epochs=10.0 if start else 0.0,
    warmup_learning_rate=start,
    decay_from="start",
    cooldown_epochs=10.0,
  )
  return config


def swin_imagenet(config: ConfigDict, crop: str = "resized_crop") -> ConfigDict:
  """Swin Transformer from scratch on ImageNet-1k (`config.py` and `data/build.py` of its code): 300 epochs.

  Resized crop, flip, RandAugment `rand-m9-mstd0.5-inc1`, random erasing of single pixels' noise, mixup 0.8 or CutMix
  1.0 for every batch; AdamW 5e-4 for a batch of 512, in proportion for others; linear warm-up of 20 epochs and a
  cosine, both per step; clipping at 5; no decay on vectors, position tables and scales; label smoothing 0.1. The
  published colour jitter has no effect beside RandAugment and is left out. The published loop lags one step behind
  its schedule; this one does not.

  Args:
    config: changed in place.
    crop: "resized_crop", or "crop" as published for images of 32 pixels and less.
  """
  config.update(batch_size=1024, num_epochs=300)
  config.data.update(
    augment=(crop, "flip", "randaugment", "erasing", "mixup", "cutmix"),
    crop_area=(0.08, 1.0),
    crop_padding=4,
    interpolation="bicubic",
    normalization="dataset",
    mix_epochs=0.0,
  )
  _mixing_and_randaugment(config)
  config.loss.update(name="cross_entropy", label_smoothing=0.1)
  _adamw(config, learning_rate=5e-4, weight_decay=0.05, decay="swin", clip_norm=5.0)
  config.optimizer.update(
    learning_rate_batch=512,
    final_learning_rate=5e-6,
    warmup_epochs=20.0,
    warmup_learning_rate=5e-7,
  )
  return config


def swin_finetune(config: ConfigDict) -> ConfigDict:
  """Swin Transformer's fine-tuning at 384 pixels or from ImageNet-22k: `swin_imagenet` for 30 epochs, small rates."""
  swin_imagenet(config)
  config.num_epochs = 30
  config.optimizer.update(
    learning_rate=2e-5,
    final_learning_rate=2e-7,
    warmup_epochs=5.0,
    warmup_learning_rate=2e-8,
    weight_decay=1e-8,
  )
  return config


def vit_finetune(config: ConfigDict) -> ConfigDict:
  """Fine-tuning of the Vision Transformer (its paper, appendix B.1.1, and its code's `configs/common.py`).

  SGD with momentum 0.9, batches of 512, a linear warm-up of 500 steps and a cosine to 0, gradients clipped at 1, no
  weight decay, no dropout; pixels between -1 and 1. Lengths are those of CIFAR: 10,000 steps. The published images are
  random boxes, flipped.
  """
  config.update(batch_size=512, num_epochs=100)
  config.data.update(augment=("resized_crop", "flip"), crop_area=(0.05, 1.0), interpolation="bilinear")
  config.data.normalization = "half"
  config.loss.update(name="cross_entropy", label_smoothing=0.0)
  _adamw(config, learning_rate=0.01, weight_decay=0.0, decay="kernels", clip_norm=1.0)
  config.optimizer.update(name="sgd", momentum=0.9, warmup_epochs=5.0)
  return config


def _adamw(config: ConfigDict, **fields) -> None:
  """AdamW with a cosine, and every other field of the schedule at its plainest."""
  config.optimizer.update(
    name="adamw",
    b1=0.9,
    b2=0.999,
    schedule="cosine",
    schedule_unit="step",
    warmup="linear",
    warmup_learning_rate=0.0,
    final_learning_rate=0.0,
    decay_from="warmup",
    cooldown_epochs=0.0,
    learning_rate_batch=0,
    ema_decay=0.0,
    **fields,
  )


def _mixing_and_randaugment(config: ConfigDict) -> None:
  config.data.update(
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
    mix_probability=1.0,
    mix_switch_probability=0.5,
    randaugment_layers=2,
    randaugment_magnitude=9.0,
    randaugment_std=0.5,
    randaugment_probability=0.5,
    erase_probability=0.25,
    erase_fill="noise",
  )
