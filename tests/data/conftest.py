"""What the data tests share."""

import pytest
from ml_collections import ConfigDict

from convnn_jax.data import prepare


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


@pytest.fixture
def run(capsys):
  """A function that runs the preparation's command line: (exit code, standard output, standard error)."""

  def command(*arguments):
    code = prepare.main(list(map(str, arguments)))
    return code, *capsys.readouterr()

  return command
