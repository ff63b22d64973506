"""The table of data sets, and opening one of them."""

import dataclasses

from convnn_jax.data import decode, digits, folder, prepared, splits
from convnn_jax.data.augment import check_augment
from convnn_jax.data.catalog import CATALOG, NORMALIZATIONS
from convnn_jax.errors import UserError, choose


@dataclasses.dataclass(frozen=True)
class DataInfo:
  """The facts about a data set that a model and a training run need.

  Attributes:
    name: key of the catalog.
    title: for people.
    num_classes, num_train, num_test: counts.
    image_shape: (y, x, c) as the model sees an image.
    source_shape: (Y, X, c) as the pipeline delivers it, uint8.
    mean, std: one number per channel, on the scale 0 to 1, for `normalise`.
    storage: "memory" (one array on the device) or "stream" (decoded per batch).
  """

  name: str
  title: str
  num_classes: int
  num_train: int
  num_test: int
  image_shape: tuple[int, int, int]
  source_shape: tuple[int, int, int]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  storage: str


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """An opened data set: its DataInfo and its two splits (MemorySplit or StreamSplit)."""

  info: DataInfo
  train: splits.MemorySplit | splits.StreamSplit
  test: splits.MemorySplit | splits.StreamSplit


def info(config):
  """The DataInfo of a data section, checked; reads no images (a folder is listed, not read).

  Args:
    config: the data section, see configs/base.py.

  Raises:
    UserError: an unknown name or word, an impossible number, a folder without the right layout.
  """
  return _describe(config)[0]


def _describe(config):
  """(DataInfo, folder.Listing or None); a large folder takes seconds to list, so it is done once."""
  entry = choose("data set", config.name, CATALOG)
  _check(config)
  listing = None
  num_classes, num_train, num_test = entry.num_classes, entry.num_train, entry.num_test
  if entry.source == "folder":
    listing = folder.list_folder(config.data_dir)
    num_classes = len(listing.classes)
    num_train, num_test = len(listing.train), len(listing.test)
  mean, std = _statistics(config, entry)
  size, c = config.image_size, entry.channels
  facts = DataInfo(
    name=entry.name,
    title=entry.title,
    num_classes=num_classes,
    num_train=num_train,
    num_test=num_test,
    image_shape=(size, size, c),
    source_shape=entry.source_shape or (size, size, c),
    mean=mean,
    std=std,
    storage="memory" if entry.source_shape else "stream",
  )
  return facts, listing


def open_dataset(config):
  """The Dataset of a data section. Never tries the network.

  Raises:
    UserError: as `info`, or the set is not prepared or is damaged; the message names the command
      that prepares it.
  """
  facts, listing = _describe(config)
  entry = CATALOG[config.name]
  if entry.source == "digits":
    train, test = (splits.MemorySplit(*digits.load_split(name)) for name in ("train", "test"))
    return Dataset(facts, train, test)
  if entry.source == "folder":
    return Dataset(facts, *_streams(listing.train, listing.test, config, entry))
  builder = prepared.find(entry, prepared.data_root(config.data_dir))
  if facts.storage == "memory":
    train, test = (splits.MemorySplit(*prepared.read_all(builder, entry, name)) for name in ("train", "test"))
    return Dataset(facts, train, test)
  train, test = (prepared.Records(builder, entry, name) for name in ("train", "test"))
  return Dataset(facts, *_streams(train, test, config, entry))


def _streams(train, test, config, entry):
  """The two StreamSplits over two files of records (folder.Files or prepared.Records)."""
  common = {
    "image_size": config.image_size,
    "center_fraction": config.center_fraction or entry.center_fraction,
  }
  area = config.crop_area if "resized_crop" in config.augment else decode.AREA_RANGE
  crop = "random" if {"crop", "resized_crop"} & set(config.augment) else "center"
  return splits.StreamSplit(train, crop=crop, crop_area=area, **common), splits.StreamSplit(test, **common)


def _check(config):
  check_augment(config)
  choose("normalization", config.normalization, NORMALIZATIONS)
  if config.image_size < 1:
    raise UserError(f"image_size={config.image_size} must be at least 1 pixel.")
  if not 0 <= config.center_fraction <= 1:
    raise UserError(
      f"center_fraction={config.center_fraction} must lie in [0, 1]; 0 takes the data set's own."
    )


def _statistics(config, entry):
  """(mean, std), one number per channel."""
  mean, std = NORMALIZATIONS[config.normalization] or (entry.mean, entry.std)
  if len(mean) == 1:
    return mean * entry.channels, std * entry.channels
  if len(mean) != entry.channels:
    raise UserError(
      f"normalization='{config.normalization}' is made for {len(mean)} channels; images of "
      f"'{entry.name}' have {entry.channels}. Use 'dataset' or 'half'."
    )
  return mean, std
