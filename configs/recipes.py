"""Published training recipes, for configs to build on."""

from ml_collections import ConfigDict


def swin_imagenet(config: ConfigDict) -> None:
  """ImageNet-1k from scratch, as Swin Transformer and its fork were trained; drop path is the model's own."""
  config.update(batch_size=1024, eval_batch_size=1024, num_epochs=300)
  config.loss.label_smoothing = 0.1
  config.optimizer.update(
    name="adamw",
    learning_rate=1e-3,  # 5e-4 per 512 images
    weight_decay=0.05,
    decay="kernels",
    schedule="cosine",
    warmup_epochs=20.0,
    final_learning_rate=1e-5,
    clip_norm=5.0,
  )


def swin_small_images(config: ConfigDict) -> None:
  """Swin from scratch on images of about 32 pixels: our choice, after the published one for ImageNet."""
  swin_imagenet(config)
  config.update(batch_size=256, eval_batch_size=256, num_epochs=100)
  config.data.augment = ("crop", "flip")
  config.optimizer.update(learning_rate=5e-4, warmup_epochs=5.0)
