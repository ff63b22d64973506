"""Images in folders: PATH/train/<class>/*.jpg and PATH/test/<class>/*.jpg (or val/)."""

import dataclasses
import pathlib

import numpy as np

from convnn_jax.errors import UserError, unknown_name

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
TEST_NAMES = ("test", "val")
LAYOUT = "Expected PATH/train/<class>/<image> and PATH/test/<class>/<image> (or PATH/val/...)."


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
  """One split: paths of n images and their labels int32 [n]."""

  paths: tuple[pathlib.Path, ...]
  labels: np.ndarray

  def __len__(self):
    return len(self.paths)

  def read(self, indices):
    """(file contents, b times bytes; labels int32 [b]) of the images `indices` [b]."""
    return [self.paths[i].read_bytes() for i in indices], self.labels[indices]

  def describe(self, index):
    """The path of one image, for messages."""
    return f"'{self.paths[index]}'"


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
  """Class names (label = position) and the files of both splits."""

  classes: tuple[str, ...]
  train: Files
  test: Files


def list_folder(path):
  """Lists the class folders below `path`; classes are the sorted folder names of train/.

  Raises:
    UserError: `path` is empty, does not exist or lacks a folder, a class folder has no image, or the test folder
      has a class that the training folder lacks.
  """
  if not path:
    raise UserError(f"The data set 'folder' needs its path: set data.data_dir=PATH. {LAYOUT}")
  root = pathlib.Path(path).expanduser()
  if not root.is_dir():
    raise UserError(f"'{root}' is no folder: set data.data_dir=PATH to one that exists. {LAYOUT}")
  train_dir = root / "train"
  test_dir = next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)
  if not train_dir.is_dir() or test_dir is None:
    raise UserError(f"'{root}' lacks a folder train/ or a folder test/ or val/. {LAYOUT}")
  classes = _class_names(train_dir)
  if not classes:
    raise UserError(f"'{train_dir}' has no class folders. {LAYOUT}")
  for name in _class_names(test_dir):
    if name not in classes:
      raise unknown_name(f"class in '{test_dir}', absent from train/:", name, classes)
  return Listing(classes, _list_split(train_dir, classes), _list_split(test_dir, classes))


def _class_names(directory):
  return tuple(sorted(p.name for p in directory.iterdir() if p.is_dir() and not p.name.startswith(".")))


def _list_split(directory, classes):
  paths, labels = [], []
  for label, name in enumerate(classes):
    found = []
    if (directory / name).is_dir():  # a small test set may lack a class
      entries = (directory / name).iterdir()
      found = [p for p in entries if p.suffix.lower() in SUFFIXES and not p.is_dir()]
      if gone := [p for p in found if not p.exists()]:
        raise UserError(f"'{gone[0]}' is a link to a file that is not there. Remove it or put the file back.")
      if not found:
        raise UserError(
          f"'{directory / name}' holds no images ({', '.join(SUFFIXES)}). Add some or remove it."
        )
    paths += sorted(found)
    labels += [label] * len(found)
  if not paths:
    raise UserError(f"'{directory}' has no class folder with images. {LAYOUT}")
  return Files(tuple(paths), np.array(labels, np.int32))
