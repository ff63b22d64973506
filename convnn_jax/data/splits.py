"""The two kinds of split: all images in memory, or images decoded when a batch asks for them."""

import dataclasses
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from convnn_jax.data import decode
from convnn_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class MemorySplit:
  """A split small enough for one array: images uint8 [n y x c], labels int32 [n]."""

  images: np.ndarray
  labels: np.ndarray
  kind = "memory"

  def __len__(self):
    return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class StreamSplit:
  """A split whose images stay encoded on disk until a batch needs them.

  Attributes:
    records: the encoded images; has len, read(indices [b]) -> (b times bytes, labels int32 [b]), and
      describe(index), the name by which a person finds an image.
    image_size: height and width of the decoded images, pixels.
    crop: "center" always takes the centre; "random" is for training, and `train_batches` draws boxes.
    center_fraction: side of the centre square as a share of the image's shorter side.
    crop_area: least and largest area of a random box, as shares of the image's area.
  """

  records: Any
  image_size: int
  crop: str = "center"
  center_fraction: float = 1.0
  crop_area: tuple[float, float] = decode.AREA_RANGE
  kind = "stream"

  def __len__(self):
    return len(self.records)

  def load(self, indices, draws=None):
    """Decodes the images `indices` [b]; returns (images uint8 [b Y X 3], labels int32 [b]).

    Args:
      indices: int [b].
      draws: float [b 4] in [0, 1), the random numbers of each row's box (`decode.random_box`);
        None takes the centre square.

    Raises:
      UserError: an image cannot be decoded; the message names it.
    """
    encoded, labels = self.records.read([int(i) for i in indices])
    images = np.empty((len(labels), self.image_size, self.image_size, 3), np.uint8)

    def work(row):
      try:
        image = decode.decode(encoded[row])
      except decode.BrokenImage as error:
        raise UserError(
          f"{self.records.describe(int(indices[row]))} is not a whole image: {error}. Replace or remove it."
        ) from error
      if draws is None:
        box = decode.center_box(image.shape, self.center_fraction)
      else:
        box = decode.random_box(image.shape, draws[row], self.crop_area)
      images[row] = decode.resize(image, box, self.image_size)

    list(_pool().map(work, range(len(labels))))  # list: errors of the workers surface here
    return images, labels


@functools.cache
def _pool():
  # The decoders release the interpreter lock, so threads are enough and nothing is pickled.
  return ThreadPoolExecutor(min(32, os.cpu_count() or 1), thread_name_prefix="decode")
