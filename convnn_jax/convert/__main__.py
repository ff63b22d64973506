"""Makes a published checkpoint into a folder of a run, which eval.py evaluates and train.py starts from; and back.

    python -m convnn_jax.convert swin_tiny.safetensors --config=configs/swin_t.py --out=runs/swin_t
    python train.py --config=configs/swin_t.py:cifar10 --config.init_from=runs/swin_t       # fine-tunes from it
    python -m convnn_jax.convert runs/swin_t-cifar10 --names=timm --out=mine.safetensors    # for other code

The config says what the model is; window, image size and number of classes may differ from the checkpoint's.
"""

import os
import pathlib
import sys
from collections.abc import Sequence

from convnn_jax import cli
from convnn_jax.errors import UserError, choose


def main(argv: Sequence[str]) -> None:
  """SOURCE --config=FILE[:ARGUMENT] --out=WORKDIR, or WORKDIR --out=FILE [--names=SOURCE]."""
  parser = cli.Parser(
    prog="python -m convnn_jax.convert",
    description=__doc__.split("\n")[0],
    epilog="Fields of the config are set by --config.FIELD=VALUE. docs/checkpoints.md has more.",
  )
  parser.add_argument("source", help="a .safetensors, .pth or .npz file; or the folder of a run")
  parser.add_argument("--config", default="", help="of a file: configs/NAME.py or configs/NAME.py:DATA")
  parser.add_argument("--out", required=True, help="folder of the new run; or a .safetensors or .npz file")
  parser.add_argument(
    "--names", default="", help="of a run: whose names to write, such as timm or huggingface"
  )
  args, rest = parser.parse_known_args(argv)
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  if args.config and args.names:
    raise UserError("--config reads a file and --names writes one; leave out one of them.")
  if args.config:
    lines = convert(args.source, args.config, args.out, rest)
  elif rest:
    raise UserError(f"Unknown argument '{rest[0]}' when a run is written as a file. See --help.")
  elif pathlib.Path(args.source).is_file():
    raise UserError(f"To read {args.source}, --config=configs/NAME.py must say what model it is. See --help.")
  else:
    from convnn_jax.convert.export import export

    lines = export(args.source, args.out, args.names)
  for line in lines:
    sys.stdout.write(line + "\n")


def convert(source: str, config_path: str, out: str, overrides: Sequence[str] = ()) -> list[str]:
  """Writes step 0 of a run; returns lines about what was done.

  Raises:
    UserError: the file, the config or the folder cannot be used, or they do not fit.
  """
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
  if config.init_from:
    raise UserError("config.init_from is for training from what is converted here; leave it out.")
  readers = {"cct": read_cct, "swin": read_swin, "vit": read_vit}
  read = choose("model with a converter", config.model.name, readers)
  pieces = assemble(config)
  shapes, spec = pieces.state_shapes.params, config.model.to_dict()
  params, lines = read(read_state(source), spec, pieces.info.image_shape[:2], shapes)
  folder = workdir.open_workdir(out, config, flag="--out")
  with (
    workdir.only_run_in(folder, flag="--out"),
    Checkpoints(folder, keep=config.keep_checkpoints) as checkpoints,
  ):
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
  sys.exit(cli.run(main, sys.argv[1:]))
