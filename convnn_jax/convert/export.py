"""Parameters of a run as a file for other code."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from convnn_jax.convert import swin_checkpoint, vit_checkpoint
from convnn_jax.convert.cct_checkpoint import write_cct
from convnn_jax.convert.read import write_safetensors
from convnn_jax.convert.swin_checkpoint import write_swin
from convnn_jax.convert.vit_checkpoint import write_vit
from convnn_jax.errors import UserError, choose
from convnn_jax.training import workdir
from convnn_jax.training.assemble import assemble
from convnn_jax.training.init_from import place
from convnn_jax.training.restore import fit_mesh, restore_variables


class _Writer(NamedTuple):
  """How a model is written.

  Attributes:
    names: whose names there are, the first one unless asked.
    write: parameters, spec, image, names -> the state dict.
    notes: complete spec, names -> lines about what the file does not tell.
  """

  names: tuple[str, ...]
  write: Callable[..., dict[str, np.ndarray]]
  notes: Callable[..., list[str]]


_WRITERS = {
  "cct": _Writer(
    ("published",),
    lambda params, spec, image, names: write_cct(params, spec, image),
    lambda spec, names: [],
  ),
  "swin": _Writer(
    ("published", "timm", "huggingface"),
    lambda params, spec, image, names: write_swin(params, spec, names),
    swin_checkpoint.notes,
  ),
  "vit": _Writer(
    ("timm", "huggingface", "google", "google_linen", "big_vision"),
    lambda params, spec, image, names: write_vit(params, spec, names),
    vit_checkpoint.notes,
  ),
}
_FILES = {".safetensors": write_safetensors, ".npz": lambda path, state: np.savez(path, **state)}


def export(source: str, out: str, names: str = "") -> list[str]:
  """Writes a run's parameters, the averaged ones if there are any; returns lines about what was done.

  Args:
    source: folder of the run, FOLDER:best or FOLDER:STEP; its last checkpoint unless given.
    out: a new file, .safetensors or .npz.
    names: whose names; "" = the model's first.

  Raises:
    UserError: no run or step, a model without names elsewhere, unknown names or kind of file, or the file is there.
  """
  file = pathlib.Path(out).expanduser()
  if file.suffix not in _FILES:
    raise UserError(f"--out={out} must end with one of {', '.join(_FILES)} when a run is written as a file.")
  if file.exists():
    raise UserError(f"--out={out} is there already; choose another name.")
  path, step = place(source)
  folder, config = workdir.load_config(path, "source")
  writer = choose("model with a converter", config.model.name, _WRITERS)
  names = names or writer.names[0]
  choose("--names", names, dict.fromkeys(writer.names))
  fit_mesh(config)
  pieces = assemble(config)
  number, variables = restore_variables(folder, pieces, step)
  params = jax.device_get(variables["params"])
  spec = config.model.to_dict()
  state = writer.write(params, spec, pieces.info.image_shape[:2], names)
  try:
    _FILES[file.suffix](file, state)
  except OSError as error:
    raise UserError(f"--out={out} cannot be written: {error.strerror or error}.") from error
  wrote = f"wrote step {number} of {folder} as {len(state)} arrays in the names of {names} code: {out}"
  return [wrote, *writer.notes(spec, names)]
