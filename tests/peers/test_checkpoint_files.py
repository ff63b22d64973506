"""Files that PyTorch writes: nothing but tensors is read, and nothing in them is run."""

import pathlib

import numpy as np
import pytest

from convnn_jax.convert.cct_checkpoint import read_cct, write_cct
from convnn_jax.convert.read import read_state
from convnn_jax.errors import UserError

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch", reason="needs requirements-peers.txt")


class _Touch:
  """Unpickling it creates a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("wrapper", ["", "model", "state_dict"])
@pytest.mark.parametrize("new", [True, False])
def test_a_state_dict_is_read(wrapper, new, tmp_path):
  state = {
    "fc.weight": torch.randn(2, 3),
    "half": torch.randn(4).to(torch.bfloat16),
    "steps": torch.tensor(7),
  }
  content = {wrapper: state, "epoch": 3, "max_accuracy": 0.5} if wrapper else state
  torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
  read = read_state(str(tmp_path / "x.pth"))
  assert read.keys() == state.keys()
  for name, tensor in state.items():
    np.testing.assert_array_equal(read[name], tensor.float().numpy())
    assert read[name].dtype == np.float32


@pytest.mark.parametrize("new", [True, False])
def test_a_file_with_code_is_refused_and_not_run(new, tmp_path):
  mark = tmp_path / "ran"
  state = {"fc.weight": torch.zeros(2), "extra": _Touch(mark)}
  torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
  with pytest.raises(UserError, match="holds more than tensors"):
    read_state(str(tmp_path / "x.pth"))
  assert not mark.exists()
  torch.load(tmp_path / "x.pth", weights_only=False)  # the same file would have done it
  assert mark.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", [1, 2]], ids=["empty", "cut", "list"])
def test_other_files_are_refused(content, tmp_path):
  file = tmp_path / "x.pth"
  file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
  with pytest.raises(UserError, match="x.pth"):
    read_state(str(file))


def test_a_compact_transformer_from_a_pth_file(tmp_path):
  import jax
  import jax.numpy as jnp

  from convnn_jax.models import make_model, presets

  spec = presets.model("cct_2_3x2_32") | dict(width=8, depth=1, mlp_dim=8)
  model = make_model(spec, num_classes=3)
  init = lambda k: model.init(k, jnp.zeros((1, 16, 16, 3)), train=False)
  shapes = jax.eval_shape(init, jax.random.key(0))["params"]
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
  state = {name: torch.tensor(np.array(a)) for name, a in write_cct(params, spec, (16, 16)).items()}
  torch.save(state, tmp_path / "cct.pth")
  read, _ = read_cct(read_state(str(tmp_path / "cct.pth")), spec, (16, 16), shapes)
  jax.tree.map(np.testing.assert_array_equal, read, params)
