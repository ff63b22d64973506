"""How reference cases are read: what they may leave out, and what may not be missing."""

import json
from pathlib import Path

import numpy as np
import pytest
from fast_jit import fast_jit
from golden_loaders import load
from test_golden import _compare

from convnn_jax.convert.rules import flat

GOLDEN = Path(__file__).parents[1] / "golden"


def arrays_of(name):
  with np.load(GOLDEN / f"{name}.npz") as file:
    return {key: file[key] for key in file}


def compare(folder, arrays):
  (folder / "sot_cct").mkdir()
  np.savez(folder / "sot_cct" / "case.npz", **arrays)
  return _compare(folder / "sot_cct" / "case.npz", "float64")


@pytest.mark.parametrize("dropped", [("grad:",), ("ct", "grad:")])
def test_outputs_alone_are_compared(dropped, tmp_path):
  arrays = arrays_of("sot_cct/seq_pool")
  worst, worst_gradient, unmatched = compare(
    tmp_path, {name: a for name, a in arrays.items() if not name.startswith(dropped)}
  )
  assert worst < 1e-6
  assert (worst_gradient, unmatched) == (0, set())


@pytest.mark.parametrize(("value", "unmatched"), [(0, set()), (1, {"param:unused.weight"})])
def test_only_gradients_of_zeros_may_be_on_one_side(value, unmatched, tmp_path):
  arrays = arrays_of("sot_cct/seq_pool") | {"grad:param:unused.weight": np.full(3, value, np.float32)}
  assert compare(tmp_path, arrays)[2] == unmatched


def test_a_missing_gradient_is_seen(tmp_path):
  arrays = arrays_of("sot_cct/seq_pool")
  del arrays["grad:x"]
  assert compare(tmp_path, arrays)[2] == {"x"}


def test_the_net_of_the_protocol_may_name_its_module():
  arrays = arrays_of("zoo/protocol_adam_steplr")
  config = json.loads(str(arrays.pop("config")))
  read = lambda net: flat(load(GOLDEN / "zoo" / "case.npz", config | dict(net=net), arrays).params)
  plain = read(config["net"])
  assert read(config["net"] | dict(module="CNN", output="log_softmax")).keys() == plain.keys()


def test_draws_of_candidates_may_differ_from_layer_to_layer():
  arrays = arrays_of("convnn/vit_convnn")
  config = json.loads(str(arrays.pop("config"))) | dict(sampling_type="random", num_samples=-9)
  first, second = np.arange(8), np.arange(8) + 9

  def logits(drawn):
    loaded = load(GOLDEN / "convnn" / "case.npz", config, arrays | {"aux:rand_idx": drawn})
    return np.asarray(fast_jit(loaded.run)(loaded.params, arrays["x"]))

  shared = logits(first)
  np.testing.assert_array_equal(logits(np.stack([first, first])), shared)
  assert np.abs(logits(np.stack([first, second])) - shared).max() > 1e-4
