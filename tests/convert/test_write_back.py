"""Published parameters come back as they were: names, shapes and numbers of every reference case."""

import json
import pathlib

import numpy as np
import pytest
from golden_loaders import load

from convnn_jax.convert.options import NotOffered
from convnn_jax.convert.rules import to_source

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CASES = sorted(GOLDEN.rglob("*.npz"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_parameters_there_and_back(path):
  with np.load(path) as file:
    config, arrays = json.loads(str(file["config"])), {name: file[name] for name in file if name != "config"}
  arrays = {name: a.astype(np.float32) if a.dtype == np.float64 else a for name, a in arrays.items()}
  published = {name.removeprefix("param:"): a for name, a in arrays.items() if name.startswith("param:")}
  try:
    loaded = load(path, config, arrays)
  except NotOffered as reason:
    pytest.skip(str(reason))
  written = to_source(loaded.params, loaded.rules)
  assert not written.keys() - published.keys()
  for name, array in written.items():
    np.testing.assert_array_equal(array, published[name], err_msg=name)
  # What does not come back takes no part there: constants, and layers that are allocated but never used.
  lost = published.keys() - written.keys()
  assert not [name for name in lost if np.any(arrays.get(f"grad:{name}", 0))]
