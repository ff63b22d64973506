"""Makes a published checkpoint into a folder of a run, which eval.py evaluates and train.py goes on with.

    python -m convnn_jax.convert swin_tiny.safetensors --config=configs/swin_t.py --out=runs/swin_t
    python train.py --config=configs/swin_t.py --workdir=runs/swin_t        # fine-tunes from it

The config says what the model is; window, image size and number of classes may differ from the checkpoint's.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from convnn_jax.errors import UserError, choose

_HELP = "Fields of the config are set by --config.FIELD=VALUE."


class _Parser(argparse.ArgumentParser):
  """Errors as one line, without the usage text."""

  def error(self, message):
    raise UserError(f"{message}. See --help.")


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit code: 0, or 2 after a user mistake, which is one line on standard error."""
  parser = _Parser("python -m convnn_jax.convert", description=__doc__.split("\n")[0], epilog=_HELP)
  parser.add_argument("source", help="a .safetensors, .pth or .npz file")
  parser.add_argument("--config", required=True, help="configs/NAME.py or configs/NAME.py:DATA")
  parser.add_argument("--out", required=True, help="folder of the new run")
  try:
    args, rest = parser.parse_known_args(argv)
    for line in convert(args.source, args.config, args.out, rest):
      sys.stdout.write(line + "\n")
  except UserError as error:
    sys.stderr.write(f"{error}\n")
    return 2
  return 0


def convert(source: str, config_path: str, out: str, overrides: Sequence[str] = ()) -> list[str]:
  """Writes step 0 of a run; returns lines about what was done.

  Raises:
    UserError: the file, the config or the folder cannot be used, or they do not fit.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  import jax

  from convnn_jax.convert.cct_checkpoint import read_cct
  from convnn_jax.convert.read import read_state
  from convnn_jax.convert.swin_checkpoint import read_swin
  from convnn_jax.convert.vit_checkpoint import read_vit
  from convnn_jax.training import config as config_lib
  from convnn_jax.training import workdir
  from convnn_jax.training.assemble import assemble
  from convnn_jax.training.checkpoint import Checkpoints
  from convnn_jax.training.record import RunRecord

  config = config_lib.load(config_path, overrides)
  readers = {"cct": read_cct, "swin": read_swin, "vit": read_vit}
  read = choose("model with a converter", config.model.name, readers)
  pieces = assemble(config)
  shapes, spec = pieces.state_shapes.params, config.model.to_dict()
  params, lines = read(read_state(source), spec, pieces.info.image_shape[:2], shapes)
  folder = workdir.open_workdir(out, config)
  with workdir.only_run_in(folder), Checkpoints(folder, keep=config.keep_checkpoints) as checkpoints:
    if checkpoints.steps():
      raise UserError(f"{folder} has checkpoints already; choose another --out.")
    place = lambda array, shape: jax.device_put(array.astype(shape.dtype), shape.sharding)
    params = jax.tree.map(place, params, shapes)
    state = pieces.create_state()
    ema = params if state.ema != () else ()
    state = state.replace(params=params, ema=ema)
    checkpoints.save(0, state.checkpoint_items(), RunRecord().to_meta(), finish="now")
  return [*lines, f"wrote step 0 of {folder}"]


if __name__ == "__main__":
  sys.exit(main())
