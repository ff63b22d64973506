"""Files of state dicts: what is read from them, and what is said of those that cannot be."""

import json
import pickle

import ml_dtypes
import numpy as np
import pytest

from convnn_jax.convert.read import read_state, write_safetensors
from convnn_jax.errors import UserError


def header(content, data=b""):
  """A safetensors file with any header."""
  text = json.dumps(content).encode()
  return len(text).to_bytes(8, "little") + text + data


def entry(**changes):
  return header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes}, b"abcd")


def read(tmp_path, name, content):
  (tmp_path / name).write_bytes(content)
  return read_state(str(tmp_path / name))


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("missing.npz", None, "is not a file"),
    ("swin.txt", b"", "ends with '.txt'; known: .bin, .npz"),
    ("x.npz", b"PK", "cannot be read as .npz: it is no archive of arrays"),
    ("x.npz", b"\x93NUMPY", "cannot be read as .npz: it is no archive of arrays"),
    ("x.npz", pickle.dumps({"a": 1}), "cannot be read as .npz: it is no archive of arrays"),
    ("x.safetensors", b"\xff" * 20, "cannot be read as .safetensors: it is cut off"),
    ("x.safetensors", header([1, 2]), "cannot be read as .safetensors: its header does not list tensors"),
    ("x.safetensors", header(None), "its header does not list tensors"),
    ("x.safetensors", header({"a": 3}), "its header does not list tensors"),
    ("x.safetensors", header({"a": {"dtype": "F32"}}), "its header does not list tensors"),
    ("x.safetensors", entry(shape="x"), "its header does not list tensors"),
    ("x.safetensors", entry(data_offsets=["0", 4]), "its header does not list tensors"),
    ("x.safetensors", entry(data_offsets=[0]), "cannot be read as .safetensors: not enough values"),
    ("x.safetensors", entry(dtype="F8_E4M3"), "x.safetensors: a has dtype F8_E4M3, which is not read; "),
    ("x.safetensors", header({"__metadata__": {}}), "x.safetensors holds no tensors"),
  ],
)
def test_files_that_cannot_be_read(name, content, message, tmp_path):
  with pytest.raises(UserError, match=message) as error:
    read_state(str(tmp_path / name)) if content is None else read(tmp_path, name, content)
  assert len(str(error.value).splitlines()) == 1
  assert ("Download it again" in str(error.value)) == ("cannot be read as" in message or "header" in message)


def test_a_damaged_archive_and_one_with_objects_are_refused(tmp_path):
  file = tmp_path / "x.npz"
  np.savez_compressed(file, x=np.arange(1000.0))
  raw = bytearray(file.read_bytes())
  raw[300:330] = bytes(range(30))
  with pytest.raises(UserError, match=r"cannot be read as .npz: .*Download it again"):
    read(tmp_path, "x.npz", raw)
  np.savez(file, y=np.zeros(1), x=np.array([{}], dtype=object))
  with pytest.raises(UserError, match=r"holds more than tensors \(x\), which could run code") as error:
    read_state(str(file))
  assert "pickle" not in str(error.value)
  np.savez(file)
  with pytest.raises(UserError, match="holds no tensors"):
    read_state(str(file))


def test_values_that_are_not_finite_are_refused(tmp_path):
  file = tmp_path / "x.npz"
  arrays = dict(a=np.zeros(2), b=np.array([1, np.nan], np.float32), c=np.array(np.inf))
  np.savez(file, **arrays)
  with pytest.raises(UserError, match="x.npz has values that are not finite .* in b and 1 more;"):
    read_state(str(file))
  np.savez(file, a=np.array([1e300]))  # not as float32
  with pytest.raises(UserError, match="not finite .* in a;"):
    read_state(str(file))


def test_the_prefix_of_a_parallel_model_is_taken_off(tmp_path):
  file = tmp_path / "x.safetensors"
  for names, expected in (
    (("module.a", "module.b.module.c"), {"a", "b.module.c"}),
    (("module.a", "b"), {"module.a", "b"}),  # no prefix of all: part of a name
  ):
    write_safetensors(file, dict.fromkeys(names, np.ones(2)))
    assert read_state(str(file)).keys() == expected


def test_numbers_of_two_bytes_are_read(tmp_path):
  x = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
  np.savez(tmp_path / "x.npz", x=x)
  np.testing.assert_array_equal(read_state(str(tmp_path / "x.npz"))["x"], x.astype(np.float32))
