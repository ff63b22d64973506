"""State dicts from files: .safetensors, .npz, and .pth with nothing but tensors in it."""

import json
import pathlib
import re
import zipfile
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from convnn_jax.errors import UserError

_SAFETENSORS = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "U8": np.uint8,
  "BOOL": np.bool_,
}
# Where published .pth files keep their state dict.
_WRAPPERS = ("model", "state_dict", "model_state_dict")


def read_state(path: str) -> dict[str, np.ndarray]:
  """Name -> array; floats become float32.

  Raises:
    UserError: no such file, another kind of file, a damaged one, or one that could run code when read.
  """
  file = pathlib.Path(path).expanduser()
  if not file.is_file():
    raise UserError(f"{path} is not a file; give a checkpoint: .safetensors, .pth or .npz.")
  readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
  readers |= dict.fromkeys((".pth", ".pt", ".bin"), _read_torch)
  if file.suffix not in readers:
    raise UserError(f"{path} ends with '{file.suffix}'; known: {', '.join(sorted(readers))}.")
  try:
    state = readers[file.suffix](file)
  except UserError:
    raise
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    raise UserError(f"{path} cannot be read as {file.suffix}: {error}. Download it again.") from error
  return {name: a.astype(np.float32) if _is_float(a.dtype) else a for name, a in state.items()}


def write_safetensors(path, state) -> None:
  """Writes a state dict of float32 arrays."""
  header, offset = {}, 0
  arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in state.items()}
  for name, array in arrays.items():
    header[name] = dict(dtype="F32", shape=list(array.shape), data_offsets=[offset, offset + array.nbytes])
    offset += array.nbytes
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  with open(path, "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for array in arrays.values():
      file.write(array.tobytes())


def _is_float(dtype):
  return np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16


def _read_safetensors(file):
  raw = file.read_bytes()
  size = int.from_bytes(raw[:8], "little")
  if size > len(raw) - 8:
    raise ValueError("it is cut off")
  header = json.loads(raw[8 : 8 + size])
  data = memoryview(raw)[8 + size :]
  state = {}
  for name, entry in header.items():
    if name != "__metadata__":
      begin, end = entry["data_offsets"]
      state[name] = np.frombuffer(data[begin:end], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
  return state


def _read_npz(file):
  with np.load(file, allow_pickle=False) as arrays:
    # NumPy knows no bfloat16 and writes its two bytes as they are.
    unnamed = lambda array: array.dtype.kind == "V" and array.dtype.itemsize == 2
    return {name: a.view(ml_dtypes.bfloat16) if unnamed(a) else a for name, a in arrays.items()}


def _read_torch(file):
  try:
    import torch
  except ImportError:
    raise UserError(
      f"{file} needs PyTorch to be read: pip install torch, or convert it to .safetensors."
    ) from None
  try:
    state = torch.load(file, map_location="cpu", weights_only=True)  # never runs code from the file
  except Exception as error:
    # PyTorch's own text goes on to recommend reading it unsafely.
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found:
      raise UserError(
        f"{file} holds more than tensors ({found[1]}), which could run code when it is read; have it converted to"
        " .safetensors where it comes from."
      ) from error
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise UserError(f"{file} is damaged or no file of PyTorch's ({reason}). Download it again.") from error
  if not isinstance(state, Mapping):
    raise UserError(f"{file} holds a {type(state).__name__}, not tensors by name; give a state dict.")
  for wrapper in _WRAPPERS:
    if isinstance(state.get(wrapper), dict):
      state = state[wrapper]
  return {name: leaf.float().numpy() for name, leaf in state.items() if isinstance(leaf, torch.Tensor)}
