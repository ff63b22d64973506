"""Files that PyTorch writes: nothing but tensors is read, and nothing in them is run."""

import pathlib
import pickle

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
  with pytest.raises(UserError, match="holds more than tensors .*, which could run code") as error:
    read_state(str(tmp_path / "x.pth"))
  assert "weights_only" not in str(error.value)
  assert not mark.exists()
  torch.load(tmp_path / "x.pth", weights_only=False)  # the same file would have done it
  assert mark.exists()


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "is damaged"),
    (b"PK\x03\x04 and no more", "is damaged"),
    (pickle.dumps({"a": 1}), "holds more than tensors, which could run code"),
    ([1, 2], "holds a list.*give a state dict"),
    ({0: torch.zeros(2)}, "has a tensor under 0, which is no name; give a state dict"),
    ({"epoch": 3}, "holds no tensors"),
  ],
  ids=["empty", "cut", "pickle", "list", "numbered", "nothing"],
)
def test_other_files_are_refused(content, message, tmp_path):
  file = tmp_path / "x.pth"
  file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
  with pytest.raises(UserError, match=f"x.pth {message}") as error:
    read_state(str(file))
  assert "weights_only" not in str(error.value)


def test_parameters_and_sparse_tensors_are_read(tmp_path):
  matrix = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
  state = {"module.a": torch.nn.Parameter(matrix), "module.b": matrix.to_sparse()}
  torch.save(state, tmp_path / "x.pth")
  read = read_state(str(tmp_path / "x.pth"))
  assert read.keys() == {"a", "b"}
  for array in read.values():
    np.testing.assert_array_equal(array, matrix.numpy())


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
