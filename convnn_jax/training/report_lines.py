"""The lines that a run prints: what it is, one line per evaluation, the closing table."""

import jax

from convnn_jax.training import summary
from convnn_jax.training.assemble import Pieces

# What the closing table shows of a result; the time of a step may be None.
NUMBERS = (
  "num_params",
  "flops_per_image",
  "train_seconds",
  "best_test_top1",
  "best_epoch",
  "test_top1",
  "test_top5",
)
NUMBERS += ("test_loss",)


def start(config, pieces: Pieces, folder) -> list[str]:
  """What the run is, before it starts."""
  info, mesh = pieces.info, pieces.mesh
  y, x, c = info.image_shape
  axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
  devices = f"{jax.device_count()} x {jax.devices()[0].device_kind} ({axes}), {config.dtype}"
  if jax.process_count() > 1:
    devices += f", {jax.process_count()} processes"
  attention = config.model.get("attention")
  mixer = f" with {attention.name} attention" if attention else ""
  return [
    f"model    {config.model.name}{mixer}: {pieces.num_params:,} parameters,"
    f" {_short(pieces.flops_per_image())}FLOP per image",
    f"data     {info.title}: {info.num_train:,} training and {info.num_test:,} test images of {y} x {x} x {c},"
    f" {info.num_classes} classes",
    f"devices  {devices}",
    f"length   {config.num_epochs} x {pieces.steps_per_epoch} steps (epochs) of {config.batch_size} images",
    f"writing  {folder}",
  ]


def model_text(config, pieces: Pieces) -> str:
  """Contents of model.txt."""
  return (
    f"{config.model.name}, {pieces.num_params:,} parameters,"
    f" {pieces.flops_per_image():,} FLOPs per image of {pieces.info.image_shape}\n"
    "(forward pass; matrix products and convolutions, 2 per multiply-add. Gathers and elementwise work are not\n"
    "counted: for convnn attention that leaves out the weighted sum over the chosen neighbours.)\n\n"
    f"{summary.table(pieces.state_shapes.params)}\n"
  )


def evaluation(step: int, pieces: Pieces, config, train: dict, test: dict, speed: str) -> str:
  """One line per evaluation."""
  epoch = step / pieces.steps_per_epoch
  number = f"{epoch:.0f}" if step % pieces.steps_per_epoch == 0 else f"{epoch:.2f}"
  width = len(str(config.num_epochs))
  line = (
    f"epoch {number:>{width}}/{config.num_epochs}  step {step}"
    f"  train loss {train['loss']:.4f} top-1 {percent(train['top1'])}"
    f"  test loss {test['loss']:.5f} top-1 {percent(test['top1'])} top-5 {percent(test['top5'])}  {speed}"
  )
  return line.rstrip()


def _short(number: float) -> str:
  """2_507_000_000 -> "2.507 G"."""
  for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
    if number >= size:
      return f"{number / size:.4g} {prefix}"
  return f"{number:g} "


def percent(fraction: float) -> str:
  """0.9722222 -> " 97.22 %"."""
  return f"{100 * fraction:6.2f} %"


def end(result: dict, folder) -> list[str]:
  """The closing table; its last line holds the figures of eval.py, digit for digit."""
  step_ms, speed = result.get("step_ms_median"), result.get("images_per_second")
  rows = [
    ("parameters", f"{result['num_params']:,}"),
    ("FLOPs per image", f"{result['flops_per_image']:,}"),
    ("training time", f"{result['train_seconds']:.1f} s"),
    ("step (median)", "-" if step_ms is None else f"{step_ms:.2f} ms"),
    ("images per second", "-" if speed is None else f"{speed:,.0f}"),
    ("best test top-1", f"{percent(result['best_test_top1']).strip()} in epoch {result['best_epoch']:g}"),
    ("test top-1, top-5", f"{percent(result['test_top1']).strip()}, {percent(result['test_top5']).strip()}"),
    ("result", str(folder / "result.json")),
  ]
  lines = ["", *(f"  {name:<18} {value}" for name, value in rows)]
  lines.append(f"test top1 {result['test_top1']} loss {result['test_loss']}")
  return lines
