"""State dicts from files: .safetensors, .npz, and .pth with nothing but tensors in it."""

import json
import pathlib
import re
import warnings
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
# What stands before every name of a model that PyTorch's DataParallel held.
_PARALLEL = "module."
_REFUSED = "which could run code when it is read; have it converted to .safetensors where it comes from."


def read_state(path: str) -> dict[str, np.ndarray]:
  """Name -> array; floats become float32, and names lose the prefix of parallel models.

  Raises:
    UserError: no such file, another kind of file, a damaged one, one that could run code when read, one without
      tensors, or with values that are not finite.
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
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
  except (
    Exception
  ) as error:  # what is raised depends on where the damage lies: zlib.error, TypeError, MemoryError, ...
    raise UserError(
      f"{path} cannot be read as {file.suffix}: {_reason(error)}. Download it again."
    ) from error
  if not state:
    raise UserError(f"{path} holds no tensors. Give the checkpoint of a model.")
  with np.errstate(over="ignore"):
    state = {name: a.astype(np.float32) if _is_float(a.dtype) else a for name, a in state.items()}
  _check_finite(path, state)
  if all(name.startswith(_PARALLEL) for name in state):
    state = {name.removeprefix(_PARALLEL): array for name, array in state.items()}
  return state


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


def _reason(error):
  """The first sentence of an error's text, or its kind."""
  lines = str(error).splitlines() or [type(error).__name__]
  return lines[0].split(". ")[0].rstrip(".")[:200]


def _is_float(dtype):
  return np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16


def _check_finite(path, state):
  bad = [name for name, array in state.items() if _is_float(array.dtype) and not np.all(np.isfinite(array))]
  if bad:
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    raise UserError(
      f"{path} has values that are not finite (nan or infinite, as float32) in {bad[0]}{more}; give the checkpoint of a"
      " training that did not diverge."
    )


def _read_safetensors(file):
  raw = file.read_bytes()
  size = int.from_bytes(raw[:8], "little")
  if size > len(raw) - 8:
    raise ValueError("it is cut off")
  header = json.loads(raw[8 : 8 + size])
  data = memoryview(raw)[8 + size :]
  try:
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return {name: _tensor(file, name, data, **entry) for name, entry in entries.items()}
  except (AttributeError, TypeError) as error:
    raise ValueError("its header does not list tensors") from error


def _tensor(file, name, data, *, dtype, shape, data_offsets):
  """One entry of a header of safetensors."""
  if dtype not in _SAFETENSORS:
    raise UserError(
      f"{file}: {name} has dtype {dtype}, which is not read; have it converted to one of {', '.join(_SAFETENSORS)}."
    )
  begin, end = data_offsets
  return np.frombuffer(data[begin:end], _SAFETENSORS[dtype]).reshape(shape)


def _read_npz(file):
  if not zipfile.is_zipfile(file):
    raise ValueError("it is no archive of arrays, or cut off")
  # NumPy knows no bfloat16 and writes its two bytes as they are.
  unnamed = lambda array: array.dtype.kind == "V" and array.dtype.itemsize == 2
  with np.load(file, allow_pickle=False) as arrays:
    state = {}
    for name in arrays:
      try:
        array = arrays[name]
      except ValueError as error:
        if "allow_pickle" not in str(error):
          raise
        # NumPy's own text goes on to recommend reading it unsafely.
        raise UserError(f"{file} holds more than tensors ({name}), {_REFUSED}") from error
      state[name] = array.view(ml_dtypes.bfloat16) if unnamed(array) else array
  return state


def _read_torch(file):
  try:
    import torch
  except ImportError:
    raise UserError(
      f"{file} needs PyTorch to be read: pip install torch, or convert it to .safetensors."
    ) from None
  try:
    with warnings.catch_warnings(action="ignore"):
      state = torch.load(file, map_location="cpu", weights_only=True)  # never runs code from the file
  except Exception as error:
    # PyTorch's own text goes on to recommend reading it unsafely.
    if "weights_only" in str(error):
      found = re.search(r"GLOBAL (\S+)", str(error))
      what = f" ({found[1]})" if found else ""
      raise UserError(f"{file} holds more than tensors{what}, {_REFUSED}") from error
    raise UserError(
      f"{file} is damaged or no file of PyTorch's ({_reason(error)}). Download it again."
    ) from error
  if not isinstance(state, Mapping):
    raise UserError(f"{file} holds a {type(state).__name__}, not tensors by name; give a state dict.")
  for wrapper in _WRAPPERS:
    if isinstance(state.get(wrapper), Mapping):
      state = state[wrapper]
  tensors = {name: leaf for name, leaf in state.items() if isinstance(leaf, torch.Tensor)}
  if wrong := [name for name in tensors if not isinstance(name, str)]:
    raise UserError(f"{file} has a tensor under {wrong[0]!r}, which is no name; give a state dict.")
  return {name: leaf.detach().to_dense().float().numpy() for name, leaf in tensors.items()}
