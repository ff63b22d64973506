"""Attention weights of a run's checkpoint on chosen test images, in evaluation mode."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Sequence

import jax
import numpy as np
from flax import traverse_util

from convnn_jax import data
from convnn_jax.attention import TokenGrid
from convnn_jax.errors import UserError
from convnn_jax.report.token_places import Places, in_windows, spanning
from convnn_jax.training import config as config_lib
from convnn_jax.training import restore
from convnn_jax.training import workdir as workdir_lib
from convnn_jax.training.assemble import assemble

MOST_PREFIX_TOKENS = 8


@dataclasses.dataclass(frozen=True)
class Layer:
  """What one attention did.

  Attributes:
    name: path of the module, for example "block_0".
    weights: float32 [b w h n m]; w windows of an image, 1 where attention spans all tokens. Where there are places
      and m > n, the last columns are padding.
    scores: the same shape before normalisation, or None if the variant has none; -inf where hidden.
    row_error: [b w h], distance of a transport plan's rows from their marginal, or None.
    places: of the n tokens of each window on the image, or None where that is unknown.
  """

  name: str
  weights: np.ndarray
  scores: np.ndarray | None
  row_error: np.ndarray | None
  places: Places | None

  @property
  def grid(self) -> TokenGrid | None:
    """Layout of the image's tokens."""
    return None if self.places is None else self.places.grid


@dataclasses.dataclass(frozen=True)
class Capture:
  """A run looked at.

  Attributes:
    name: for titles.
    folder: of the run.
    step: of the checkpoint.
    images: float32 [b y x c] in [0, 1], as the model sees them but not normalised.
    labels, predictions: int [b].
    layers: in the order of the network.
    pooling: weights [b n] with which tokens are averaged for the readout, or None.
    pooling_grid: their layout.
  """

  name: str
  folder: pathlib.Path
  step: int
  images: np.ndarray
  labels: np.ndarray
  predictions: np.ndarray
  layers: list[Layer]
  pooling: np.ndarray | None
  pooling_grid: TokenGrid | None


def capture(workdir: str, images: Sequence[int], step: int | str = "last") -> Capture:
  """Runs the test images `images` through a checkpoint.

  Raises:
    UserError: no run, no checkpoint, no such image, or a model that shows no attention weights.
  """
  folder, config = _whole_config(workdir)
  restore.fit_mesh(config)
  pieces = assemble(config)
  number, variables = restore.restore_variables(folder, pieces, step)
  test = data.open_dataset(config.data).test
  for index in images:
    if index >= len(test):
      raise UserError(f"--images: image {index} does not exist; {folder} has {len(test)} test images.")
  stored, labels = _load(test, np.asarray(images))
  normalised = data.normalise(stored, config.data, pieces.info)

  apply = jax.jit(lambda v, x: pieces.model.apply(v, x, train=False, mutable=["intermediates"]))
  logits, sown = jax.device_get(apply(variables, np.asarray(normalised)))
  found = traverse_util.flatten_dict(sown.get("intermediates", {}))
  layers = find_layers(found, len(images), pieces.info.image_shape)
  if not layers:
    attention = config.model.get("attention")
    what = f"the model '{config.model.name}'" + (f" with '{attention.name}' attention" if attention else "")
    raise UserError(
      f"{folder}: {what} gives no attention weights to show; an attention sows them as 'attention_weights' of"
      " 'intermediates' (CONTRIBUTING.md)."
    )
  pooling = next(
    (np.asarray(v[-1], np.float32) for path, v in found.items() if path[-1] == "pooling_weights"), None
  )
  return Capture(
    name=folder.name,
    folder=pathlib.Path(folder),
    step=number,
    images=np.clip(np.asarray(normalised) * pieces.info.std + pieces.info.mean, 0, 1),
    labels=labels,
    predictions=np.argmax(logits, axis=-1),
    layers=layers,
    pooling=pooling,
    pooling_grid=None if pooling is None else infer_grid(pooling.shape[1], pieces.info.image_shape),
  )


def number_of_images(workdir: str) -> int:
  """How many test images a run has; UserError if there is no run or no data."""
  _, config = _whole_config(workdir)
  return len(data.open_dataset(config.data).test)


def _whole_config(workdir):
  """(folder, config) of a run; UserError if there is none, or one that lacks something."""
  folder, config = workdir_lib.load_config(workdir)
  try:
    return folder, config_lib.override(config)
  except UserError as error:
    raise UserError(f"{folder / 'config.json'}: {error}") from error


def _load(split, indices):
  """(uint8 [b Y X c], labels [b]) of a split's examples."""
  if split.kind == "memory":
    return split.images[indices], split.labels[indices]
  return split.load(indices)


def find_layers(sown: dict, num_images: int, image_shape) -> list[Layer]:
  """Every attention among sown values {path: (value, ...)}, in natural order of the paths.

  An attention inside another one, as in branching, is left out: the outer one shows its heads.
  """
  paths = [path[:-1] for path in sown if path[-1] == "attention_weights"]
  outer = [p for p in paths if not any(p[:k] in paths for k in range(len(p)))]
  layers = []
  for path in sorted(outer, key=_natural):
    name = "/".join(path[:-1] if len(path) > 1 and path[-1] == "attention" else path)
    every = _stacked(sown[(*path, "attention_weights")])
    scores = _stacked(sown.get((*path, "attention_scores"), ()))
    errors = _stacked(sown.get((*path, "sinkhorn_row_error"), ()), rank=2)
    places = _stacked(
      sown.get((*path[:-1], f"{path[-1]}_places"), ()) if path else (), rank=3, dtype=np.int32
    )
    for number, weights in enumerate(every):
      same = lambda values, number=number: values[number] if len(values) == len(every) else None
      by_image = lambda x: None if x is None else x.reshape(num_images, -1, *x.shape[1:])
      weights, score, error = by_image(weights), by_image(same(scores)), by_image(same(errors))
      here = _places(same(places), weights.shape, image_shape, (*path, "attention_padding") in sown)
      score = None if score is None or score.shape != weights.shape else score
      if score is not None and here is not None and here.visible is not None:
        score = np.where(here.visible[None, :, None], score, -np.inf)
      layers.append(
        Layer(
          name=name or "attention" if len(every) == 1 else f"{name}/{number}",
          weights=weights,
          scores=score,
          row_error=error,
          places=here,
        )
      )
  return layers


def _places(sown, shape, image_shape, padded: bool) -> Places | None:
  """Of an attention with weights of `shape` [b w h n m]; `padded`: the columns beyond n are no tokens."""
  windows, n, m = shape[1], *shape[-2:]
  if sown is not None:
    return in_windows(sown)
  grid = infer_grid(n, image_shape) if windows == 1 and (n == m or padded) else None
  return None if grid is None else spanning(grid)


def _stacked(values, rank: int = 4, dtype=np.float32) -> list[np.ndarray]:
  """Sown values as a list of arrays of `rank` axes; scanned layers have one more in front."""
  arrays = []
  for value in values:
    value = np.asarray(value, dtype)
    arrays += list(value) if value.ndim == rank + 1 else [value]
  return arrays


def _natural(path) -> list:
  """block_2 before block_10."""
  return [[int(w) if w.isdigit() else w for w in re.split(r"(\d+)", part)] for part in path]


def infer_grid(num_tokens: int, image_shape) -> TokenGrid | None:
  """Rows and columns in the image's proportions that, with as few prefix tokens as possible, give num_tokens."""
  y, x = image_shape[:2]
  for prefix in range(min(MOST_PREFIX_TOKENS, num_tokens - 1) + 1):
    rows = math.isqrt((num_tokens - prefix) * y // x)
    if rows and rows * rows * x == (num_tokens - prefix) * y:
      return TokenGrid(rows, (num_tokens - prefix) // rows, prefix)
  return None
