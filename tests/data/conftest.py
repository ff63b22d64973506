"""What the data tests share."""

import pytest
from ml_collections import ConfigDict


@pytest.fixture
def section():
  """A function that makes a data section: digits at their own size, plain, unless told otherwise."""

  def make(**fields):
    base = {
      "name": "digits",
      "data_dir": "",
      "image_size": 8,
      "augment": (),
      "crop_padding": 2,
      "normalization": "dataset",
    }
    return ConfigDict(base | fields)

  return make
