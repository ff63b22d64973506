"""Every field of a run: default, unit and meaning. Nothing else defines fields.

The defaults are the published ConvNN training run: ViT-Tiny 224/16 on CIFAR-10 without augmentation, AdamW.
Fields of the attention are documented in its class, convnn_jax/attention/<name>.py.
"""

from ml_collections import ConfigDict

from convnn_jax.errors import choose


def get_config() -> ConfigDict:
  """The base config; an experiment changes what it is about and calls `with_data` last."""
  return ConfigDict(
    dict(
      init_from="",  # parameters to start from: folder of a run or of a conversion; FOLDER:best, FOLDER:STEP
      seed=42,  # decides initial parameters, data order, augmentation, dropout, candidates
      batch_size=256,  # images per step, over all devices
      eval_batch_size=256,  # images per evaluation step, over all devices (rounded up to fit them)
      num_epochs=150,  # an epoch is num_train // batch_size steps
      log_every=50,  # steps between rows of metrics.jsonl
      eval_every=0,  # steps between evaluations of the test set; 0 = once per epoch
      checkpoint_every=0,  # steps between checkpoints; 0 = once per epoch
      keep_checkpoints=2,  # the newest so many stay on disk, and the best one
      steps_per_call=1,  # steps that the device does without the host; data sets on the device only (docs/speed.md)
      max_skipped_updates=20,  # so many non-finite updates in a row end the run
      dtype="float32",  # compute dtype: float32 or bfloat16; parameters, scores, norms, losses stay float32
      mesh=dict(  # devices along each axis; -1 = all that are left
        data=-1,  # batch
        fsdp=1,  # parameters and optimiser state cut over devices, batch too
        tensor=1,  # heads and hidden channels
      ),
      data=dict(
        name="cifar10",  # digits, mnist, fashion_mnist, cifar10, cifar100, imagenet, folder
        data_dir="",  # prepared data; "" = $TFDS_DATA_DIR or ~/tensorflow_datasets; for folder its path
        image_size=224,  # pixels; images are resized to this square
        augment=(),  # words, in training only, applied in their order; the last three stand last:
        # crop (random, zero padded; a random box of streamed images), flip (horizontal), resized_crop (a random box,
        # resized), autoaugment, randaugment, erasing (a random box), mixup, cutmix (both: one of them per batch)
        crop_padding=4,  # of crop, pixels of the source image
        crop_area=(0.08, 1.0),  # of resized_crop: least and largest share of the image's area
        interpolation="bilinear",  # of resized_crop and randaugment: bilinear, bicubic, random (either, per image)
        policy="cifar10",  # of autoaugment: cifar10, imagenet
        randaugment_layers=2,  # operations per image
        randaugment_magnitude=9.0,  # mean strength of an operation, 0 to 10
        randaugment_std=0.5,  # its standard deviation
        randaugment_probability=0.5,  # of each operation being applied
        erase_probability=0.25,  # of an image having a box erased
        erase_fill="noise",  # noise (normal, per pixel), color (normal, per image), zero; after normalisation
        mixup_alpha=0.8,  # the share of an image is drawn from Beta(alpha, alpha)
        cutmix_alpha=1.0,  # the same for the share of its area
        mix_probability=1.0,  # of a batch being mixed
        mix_switch_probability=0.5,  # of cutmix instead of mixup, where both words stand
        mix_epochs=0.0,  # only the first so many epochs are mixed; 0 = all
        center_fraction=0.0,  # evaluation of streamed images: centre square, share of the shorter side; 0 = usual
        normalization="dataset",  # mean and deviation of: dataset, imagenet, mnist, half (0.5 and 0.5)
      ),
      model=dict(
        name="vit",
        patch_size=16,  # pixels
        patch_norm="after",  # LayerNorm after the patches' linear map; both (before, too), none
        width=192,  # channels of a token
        depth=12,  # blocks
        mlp_dim=768,  # hidden width of the MLPs
        dropout_rate=0.1,
        embedding_dropout_rate=0.0,  # on the tokens that enter the first block
        position_embedding="sincos",  # sincos, sincos_one_frequency, learned, none
        position_std=0.02,  # of new learned positions
        num_positions=0,  # rows of the learned table; 0 = one per token
        pooling="cls",  # cls (class token), mean, mean_all (class token, too), query (learned ones cross-attend)
        num_queries=1,  # of pooling="query"
        final_norm="none",  # none, layer_norm, after_pooling
        norm_epsilon=1e-5,  # of the norms in the blocks and of the final one; pretrained ViTs have 1e-6 or 1e-12
        activation="gelu",  # of the MLPs: gelu (exact), gelu_tanh (its approximation), relu
        scan_layers="auto",  # blocks as one loop: auto, dots, full (least memory), or unrolled (docs/speed.md)
        attention=dict(name="softmax", num_heads=3, dropout_rate=0.1),  # replaced as a whole
      ),
      loss=dict(
        name="cross_entropy",  # cross_entropy, mse (against one-hot labels)
        label_smoothing=0.0,  # share of the label spread over all classes, in training only
      ),
      optimizer=dict(
        name="adamw",  # adamw, adam (decay in the gradient), sgd
        learning_rate=1e-4,  # peak
        weight_decay=0.01,
        learning_rate_batch=0,  # batch size for which the rates are given; they grow in proportion; 0 = any
        decay="all",  # parameters that decay: all (as published), kernels (no biases, norms, tokens, positions),
        # matrices (no biases, no vectors; tokens and positions decay), swin (matrices without positions and scales)
        momentum=0.9,  # of sgd
        b1=0.9,  # of adam and adamw
        b2=0.999,
        schedule="constant",  # constant, step, cosine, plateau (of the epoch's mean training loss)
        schedule_unit="step",  # the rate changes with every: step, epoch
        warmup_epochs=0.0,
        warmup="linear",  # linear, hyperbolic (peak / units left)
        warmup_learning_rate=0.0,  # where linear starts; 0 = peak / number of units, not at 0
        decay_from="warmup",  # step and cosine count from: warmup (its end), start (warm-up replaces their beginning)
        cooldown_epochs=0.0,  # last epochs, at the final rate
        final_learning_rate=0.0,  # where cosine ends
        decay_every=30.0,  # epochs between the steps of `step`; epochs without progress for `plateau`
        decay_factor=0.1,  # of `step` and `plateau`
        clip_norm=1.0,  # global norm of the gradient; 0 = off
        accumulate=1,  # parts in which a batch is computed, one after another; divides batch_size
        ema_decay=0.0,  # exponential mean of the parameters, which is then evaluated; 0 = off
      ),
    )
  )


# Data presets: image and patch size follow the data set, width and depth stay the config's own; only `digits`
# shrinks the model too, so that a laptop trains it in about a minute.
PRESETS = {
  "cifar10": dict(name="cifar10", image_size=224, patch_size=16),
  "cifar100": dict(name="cifar100", image_size=224, patch_size=16),
  "imagenet": dict(name="imagenet", image_size=224, patch_size=16, augment=("flip",)),
  "mnist": dict(name="mnist", image_size=28, patch_size=4, augment=()),
  "fashion_mnist": dict(name="fashion_mnist", image_size=28, patch_size=4, augment=("flip",)),
  "digits": dict(name="digits", image_size=8, patch_size=2, augment=()),
  "folder": dict(name="folder", image_size=224, patch_size=16, augment=("flip",)),
}

_PLAIN = ("digits", "mnist")  # crops, flips and mixtures of digits are other digits, or none


def with_data(config: ConfigDict, preset: str = "cifar10", image_size: int = 0) -> ConfigDict:
  """Applies a data preset: a key of PRESETS, or "folder=PATH".

  Args:
    config: changed in place.
    preset: the data set.
    image_size: pixels that the model is made for; it then keeps its own patches on data sets that are resized. 0 = 224.
      Models with stages, whose grids must be whole windows, keep both on all data sets but digits.

  Raises:
    UserError: unknown preset.
  """
  name, _, path = preset.partition("=")
  fields = dict(choose("data preset", name, PRESETS))
  patch_size = fields.pop("patch_size")
  staged = "depths" in config.model and name != "digits"
  if image_size and (fields["image_size"] == 224 or staged):
    fields["image_size"] = image_size
  elif config.model.get("patch_size"):  # not where a model has none, or derives it
    config.model.patch_size = patch_size
  usual = fields.pop("augment", ())
  if name in _PLAIN or not config.data.augment:  # a recipe's augmentation stays where the images bear it
    config.data.augment = usual
  config.data.update(fields)
  config.data.data_dir = path
  if name == "digits":
    shrink(config)
  return config


def shrink(config: ConfigDict) -> None:
  """What a laptop trains in about a minute: the model, and a schedule for digits, in place."""
  config.batch_size = 32
  config.eval_batch_size = 360
  config.num_epochs = 25
  config.log_every = 44  # an epoch
  config.optimizer.update(learning_rate=3e-3, schedule="cosine", warmup_epochs=5.0)
  # What a recipe says about its own rates and epochs does not fit.
  config.optimizer.update(final_learning_rate=0.0, warmup_learning_rate=0.0, learning_rate_batch=0)
  config.optimizer.update(cooldown_epochs=0.0, schedule_unit="step", warmup="linear", decay_from="warmup")
  if "depths" in config.model:
    _shrink_stages(config.model)
  else:
    smaller = dict(width=64, depth=min(config.model.get("depth", 4), 4), mlp_dim=128)
    if "num_convolutions" in config.model:
      smaller |= dict(kernel_size=3, num_convolutions=1)  # 4 x 4 tokens
    config.model.update({field: value for field, value in smaller.items() if field in config.model})
    if "attention" in config.model:
      _shrink_attention(config.model.attention)


def _shrink_stages(model: ConfigDict) -> None:
  """Two stages, on 8 x 8 tokens in shifted windows and on 4 x 4 in one."""
  stages = len(model.depths)

  def cut(spec: ConfigDict) -> None:
    for field, value in spec.items():
      if isinstance(value, ConfigDict):
        cut(value)
      elif field == "num_heads":
        spec[field] = (2, 4)
      elif isinstance(value, tuple) and len(value) == stages:  # a value per stage
        spec[field] = value[:2]

  cut(model.attention)
  model.update(patch_size=1, width=32, depths=(2, 2), window_size=(4, 4), mlp_ratio=2.0)


def _shrink_attention(spec: ConfigDict) -> None:
  """Fits a spec, and the specs inside it, to 16 or 17 tokens of width 64."""
  if spec.get("num_heads", 1) > 1:
    spec.num_heads = 4  # the published 3 does not divide a width of 64
  # Wider windows would be softmax attention; in a narrower band the class token would never hear of the last rows.
  narrow = {"neighborhood": 9}.get(spec.get("name"), 5)  # windows of `local` see their neighbour windows, too
  smaller = dict(head_dim=16, window_size=narrow, window=9)
  for field, value in smaller.items():
    if spec.get(field, 0) > value:
      spec[field] = value
  for value in spec.values():
    if isinstance(value, ConfigDict):
      _shrink_attention(value)
