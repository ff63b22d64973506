"""A ViT, with any attention, on the feature map of a small convolutional network.

Source: the hybrid of holestine/Attention; compare Dosovitskiy et al., "An Image is Worth 16x16 Words", section 3.1.
"""

import flax.linen as nn

from convnn_jax.models.cnn import ConvStem
from convnn_jax.models.vit import ViT


class Hybrid(ViT):
  """images [b y x c] -> logits [b num_classes] in float32.

  Attributes, besides those of ViT:
    patch_size: in pixels of the feature map, whose side is (image side - 4) // 2; 0 = half of that, four patches as in
      the published study.
    stem_channels: output channels of the two convolutions.
  """

  patch_size: int | tuple[int, int] = 0
  stem_channels: tuple[int, ...] = (32, 64)

  @nn.compact
  def __call__(self, images, *, train: bool):
    features = ConvStem(self.stem_channels, self.dtype, name="stem")(images)
    return super().__call__(features, train=train)

  def _patch_size(self, images):
    return self.patch_size or max(images.shape[1] // 2, 1)
