"""Reading data sets that tensorflow-datasets has prepared as array_record; needs no TensorFlow."""

import json
import os
import pathlib

import numpy as np

from convnn_jax.errors import UserError

CHUNK = 2_000  # examples decoded per call; a chunk of CIFAR is 6 MB


def data_root(data_dir):
  """The folder of prepared sets: `data_dir`, or $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
  chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  return pathlib.Path(chosen).expanduser().absolute()


def set_dir(entry, root):
  """Where the prepared files of a catalog entry lie below `root`."""
  return root / entry.tfds_name / entry.version


def check(entry, root):
  """Raises UserError unless the set is prepared below `root`, complete and in our format."""
  directory = set_dir(entry, root)
  if not directory.is_dir():
    raise UserError(
      f"The data set '{entry.name}' is not prepared: '{directory}' does not exist. Prepare it "
      f"once with `{command(entry, root)}` (archives already on disk: add --manual_dir=FOLDER), or "
      "point data.data_dir at the folder where it is. To train without any download use the "
      "embedded digits: --config=<config>:digits."
    )
  try:
    record = json.loads((directory / "dataset_info.json").read_text())
    counts = {s["name"]: sum(map(int, s["shardLengths"])) for s in record["splits"]}
    file_format = record.get("fileFormat", "tfrecord")
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise _damaged(entry, root, f"dataset_info.json is unreadable ({error})") from error
  if file_format != "array_record":
    raise UserError(
      f"'{directory}' was prepared as {file_format}, which needs TensorFlow; array_record is read "
      f"here. Prepare a second copy elsewhere: `{command(entry, None)} --data_dir=OTHER`, and set "
      "data.data_dir=OTHER."
    )
  wanted = dict(zip(entry.splits, (entry.num_train, entry.num_test), strict=True))
  for name, count in wanted.items():
    if counts.get(name) != count:
      raise _damaged(entry, root, f"split '{name}' has {counts.get(name)} examples, not {count}")


def find(entry, root):
  """The tensorflow-datasets builder of a prepared set; raises as `check` does."""
  check(entry, root)
  import tensorflow_datasets as tfds  # 0.6 s, and the embedded digits never need it

  try:
    builder = tfds.builder_from_directory(set_dir(entry, root))
    files = [path for split in entry.splits for path in builder.info.splits[split].filepaths]
  except Exception as error:  # its other files of facts: which one, and how it fails, depends on the version
    raise _damaged(entry, root, f"{type(error).__name__}: {error}") from error
  for path in files:
    if not os.path.exists(path):
      raise _damaged(entry, root, f"'{os.path.basename(path)}' is missing")
  return builder


def read_all(builder, entry, split):
  """Decodes a whole split ("train" or "test"): (images uint8 [n y x c], labels int32 [n])."""
  source = _source(builder, entry, split)
  n = len(source)
  images = np.empty((n, *entry.source_shape), np.uint8)
  labels = np.empty((n,), np.int32)
  for start in range(0, n, CHUNK):
    rows = list(range(start, min(start + CHUNK, n)))
    for i, example in zip(rows, _get(source, rows, entry, builder), strict=True):
      images[i], labels[i] = example["image"], example["label"]
  return images, labels


class Records:
  """The encoded images and labels of one split ("train" or "test"), for a StreamSplit."""

  def __init__(self, builder, entry, split):
    import tensorflow_datasets as tfds

    self._builder, self._entry, self._split = builder, entry, split
    self._source = _source(builder, entry, split, {"image": tfds.decode.SkipDecoding()})

  def __len__(self):
    return len(self._source)

  def read(self, indices):
    """Indices [b] -> (encoded images, b times bytes; labels int32 [b])."""
    examples = _get(self._source, list(indices), self._entry, self._builder)
    labels = np.array([example["label"] for example in examples], np.int32)
    return [example["image"] for example in examples], labels

  def describe(self, index):
    """One image's place, for messages."""
    return f"Image {index} of the {self._split} split in '{self._builder.data_path}'"


def command(entry, root):
  """The shell command that prepares an entry; `root` None leaves the folder open."""
  place = "" if root is None or root == data_root("") else f" --data_dir={root}"
  return f"python -m convnn_jax.data.prepare {entry.name}{place}"


def _source(builder, entry, split, decoders=None):
  name = entry.splits[("train", "test").index(split)]
  try:
    return builder.as_data_source(name, decoders=decoders)
  except Exception as error:  # array_record raises several kinds for files it cannot open
    raise _damaged(entry, _root_of(builder), str(error)) from error


def _get(source, rows, entry, builder):
  try:
    return source.__getitems__(rows)
  except Exception as error:  # as above; also whatever the image decoder raises
    raise _damaged(entry, _root_of(builder), f"{type(error).__name__}: {error}") from error


def _root_of(builder):
  return pathlib.Path(builder.data_path).parent.parent


def _damaged(entry, root, reason):
  directory = set_dir(entry, root)
  return UserError(
    f"The prepared data set '{entry.name}' in '{directory}' is damaged: {reason}. Remove that "
    f"folder and prepare it again: `{command(entry, root)}`."
  )
