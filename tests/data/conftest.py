"""What the data tests share."""

import pytest
from ml_collections import ConfigDict

from configs import base
from convnn_jax.data import prepare


@pytest.fixture
def section():
  """A function that makes a data section: digits at their own size, plain, unless told otherwise."""

  def make(**fields):
    plain = {"name": "digits", "image_size": 8, "crop_padding": 2}
    return ConfigDict(base.get_config().data.to_dict() | plain | fields)

  return make


@pytest.fixture
def run(capsys):
  """A function that runs the preparation's command line: (exit code, standard output, standard error)."""

  def command(*arguments):
    code = prepare.main(list(map(str, arguments)))
    return code, *capsys.readouterr()

  return command
