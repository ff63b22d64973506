"""scikit-learn's handwritten digits: 1,797 images of 8x8, part of the package, no download."""

import numpy as np

TEST_EVERY = 5  # images 0, 5, 10, ... are the test set: 360 of 1,797


def load_split(split):
  """Returns (images uint8 [n 8 8 1], labels int32 [n]) of "train" (1,437) or "test" (360)."""
  from sklearn.datasets import load_digits

  digits = load_digits()
  # Values 0 to 16 are counts of set pixels in 4x4 blocks of the scan.
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
  labels = digits.target.astype(np.int32)
  is_test = np.arange(len(labels)) % TEST_EVERY == 0
  chosen = is_test if split == "test" else ~is_test
  return images[chosen], labels[chosen]
