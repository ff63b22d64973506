"""Order, sharding, exactly-once evaluation, and streams against memory."""

import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from convnn_jax import data
from convnn_jax.data import pipeline
from convnn_jax.errors import UserError


def batch_sharding(num_devices=8, shape=None, names=("data",)):
  devices = np.array(jax.devices()[:num_devices]).reshape(shape or (num_devices,))
  mesh = jax.sharding.Mesh(devices, names, axis_types=(AxisType.Auto,) * len(names))
  return NamedSharding(mesh, PartitionSpec(names[0]))


def numbered_split(n=22):
  """Image i is filled with i and has label i."""
  labels = np.arange(n, dtype=np.int32)
  images = np.broadcast_to(labels[:, None, None, None], (n, 4, 4, 3)).astype(np.uint8)
  return data.MemorySplit(images, labels)


class NumberedStream:
  """A stream of the same images that records which ones were decoded."""

  kind = "stream"
  crop = "center"

  def __init__(self, n=22):
    self.n, self.asked, self.draws = n, [], []

  def __len__(self):
    return self.n

  def load(self, indices, draws=None):
    self.asked.append(np.array(indices))
    self.draws.append(draws)
    images = np.broadcast_to(indices[:, None, None, None], (len(indices), 4, 4, 3))
    return images.astype(np.uint8), np.asarray(indices, np.int32)


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


def test_order_is_the_plain_loop():
  n, b, seed = 22, 4, 5
  expected = []
  for epoch in range(3):
    order = np.random.default_rng([seed, epoch]).permutation(n)
    for start in range(0, n - b + 1, b):
      expected.append(order[start : start + b])
  for step, indices in enumerate(expected):
    np.testing.assert_array_equal(data.batch_indices(seed, step, b, n), indices)


def test_an_epoch_has_no_example_twice_and_epochs_differ():
  first, second = (data.epoch_order(0, epoch, 100) for epoch in range(2))
  assert sorted(first) == list(range(100))
  assert (first != second).any()
  assert (data.epoch_order(1, 0, 100) != first).any()
  with pytest.raises(ValueError, match="read-only"):
    first[0] = 0


@pytest.mark.parametrize("start", [0, 1, 7, 23])
def test_a_resumed_run_gets_the_batches_of_the_uninterrupted_one(start):
  common = {"seed": 3, "batch_size": 8, "sharding": batch_sharding()}
  split = numbered_split()
  whole = take(data.train_batches(split, start_step=0, **common), start + 3)[start:]
  resumed = take(data.train_batches(split, start_step=start, **common), 3)
  for a, b in zip(whole, resumed, strict=True):
    np.testing.assert_array_equal(a["index"], b["index"])


def fetched(split, sharding, batches):
  """(images, labels) of each batch, through jit, as NumPy."""
  on_device = data.resident(split, sharding)
  return [jax.device_get(jax.jit(data.fetch)(on_device, batch)) for batch in batches]


@pytest.mark.parametrize("make_split", [numbered_split, NumberedStream])
def test_fetch_gives_the_images_and_labels_of_the_indices(make_split):
  split, sharding = make_split(), batch_sharding()
  batches = data.train_batches(split, seed=1, batch_size=8, start_step=2, sharding=sharding)
  for step, (images, labels) in enumerate(fetched(split, sharding, take(batches, 5)), start=2):
    np.testing.assert_array_equal(labels, data.batch_indices(1, step, 8, 22))
    np.testing.assert_array_equal(images[:, 0, 0, 0], labels)


@pytest.mark.parametrize(
  ("shape", "names"), [((8,), ("data",)), ((2,), ("data",)), ((4, 2), ("data", "tensor"))]
)
@pytest.mark.parametrize("make_split", [numbered_split, NumberedStream])
def test_batches_and_augmentation_do_not_depend_on_the_devices(section, make_split, shape, names):
  config = section(name="cifar10", image_size=6, augment=("crop", "flip"))
  info = data.info(config)

  def run(sharding):
    split = make_split()
    on_device = data.resident(split, sharding)

    @jax.jit
    def step(on_device, batch):
      images, labels = data.fetch(on_device, batch)
      return data.augment(images, jax.random.key(7), config, info), labels

    batches = data.train_batches(split, seed=1, batch_size=8, start_step=0, sharding=sharding)
    return [jax.device_get(step(on_device, batch)) for batch in take(batches, 3)]

  one = run(batch_sharding(1))
  many = run(batch_sharding(int(np.prod(shape)), shape, names))
  for (x, labels), (x_many, labels_many) in zip(one, many, strict=True):
    np.testing.assert_array_equal(labels, labels_many)
    np.testing.assert_allclose(x, x_many, atol=1e-6)


def test_the_step_needs_no_communication_between_devices(section):
  split, sharding = numbered_split(), batch_sharding()
  config = section(name="cifar10", image_size=6, augment=("crop", "flip"))
  info = data.info(config)

  def step(on_device, batch):
    return data.augment(data.fetch(on_device, batch)[0], jax.random.key(0), config, info)

  batch = next(data.train_batches(split, seed=0, batch_size=8, start_step=0, sharding=sharding))
  program = jax.jit(step).lower(data.resident(split, sharding), batch).compile().as_text()
  for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
    assert collective not in program


class TwoProcesses:
  """A sharding whose addressable devices are one half, as one of two processes sees it."""

  def __init__(self, sharding, half):
    self.sharding, self.half = sharding, half

  def addressable_devices_indices_map(self, shape):
    items = list(self.sharding.addressable_devices_indices_map(shape).items())
    return dict(items[4 * self.half : 4 * self.half + 4])


@pytest.mark.parametrize("half", [0, 1])
def test_a_process_decodes_only_its_own_rows(monkeypatch, half):
  # What a process hands over is recorded; putting arrays together over processes is jax's part.
  shards = []
  monkeypatch.setattr(
    jax, "make_array_from_callback", lambda shape, sharding, make: shards.append((shape, make))
  )
  stream, sharding = NumberedStream(), TwoProcesses(batch_sharding(), half)
  index = data.batch_indices(0, 0, 16, 22)
  draws = np.random.default_rng(0).random((16, 4))
  pipeline._load(stream, index, draws, sharding)
  own = slice(8 * half, 8 * half + 8)
  np.testing.assert_array_equal(stream.asked[0], index[own])
  np.testing.assert_array_equal(stream.draws[0], draws[own])
  (image_shape, _), (label_shape, label_of) = shards
  assert image_shape == (16, 4, 4, 3)
  assert label_shape == (16,)
  for slices in sharding.addressable_devices_indices_map((16,)).values():
    np.testing.assert_array_equal(label_of(slices), index[slices])


def test_random_boxes_are_a_function_of_seed_and_step():
  def draws_from(start):
    stream = NumberedStream()
    stream.crop = "random"
    batches = data.train_batches(stream, seed=2, batch_size=8, start_step=start, sharding=batch_sharding())
    take(batches, 3)
    batches.close()
    return stream.draws

  whole, resumed = draws_from(0), draws_from(2)
  np.testing.assert_array_equal(whole[2], resumed[0])
  assert (whole[0] != whole[1]).any()


@pytest.mark.parametrize("make_split", [numbered_split, NumberedStream])
@pytest.mark.parametrize("n", [1, 8, 22, 24])
def test_evaluation_sees_every_example_exactly_once(make_split, n):
  split, sharding = make_split(n), batch_sharding()
  batches = list(data.eval_batches(split, batch_size=8, sharding=sharding))
  assert len(batches) == -(-n // 8)
  labels = np.concatenate([labels for _, labels in fetched(split, sharding, batches)])
  mask = np.concatenate([batch["mask"] for batch in batches])
  assert mask.dtype == np.float32
  np.testing.assert_array_equal(labels[mask == 1], np.arange(n))
  np.testing.assert_array_equal(labels[mask == 0], 0)


def test_streams_are_decoded_ahead_but_not_far():
  stream = NumberedStream()
  batches = data.train_batches(stream, seed=0, batch_size=8, start_step=0, sharding=batch_sharding())
  next(batches)
  deadline = time.monotonic() + 10
  while len(stream.asked) < 3 and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(0.05)
  assert len(stream.asked) == 1 + pipeline.PREFETCH
  batches.close()
  assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_an_error_of_the_decoder_reaches_the_loop():
  class Broken(NumberedStream):
    def load(self, indices, draws=None):
      raise UserError("broken image")

  batches = data.train_batches(Broken(), seed=0, batch_size=8, start_step=0, sharding=batch_sharding())
  with pytest.raises(UserError, match="broken image"):
    next(batches)


def test_a_negative_seed_is_a_user_error():
  with pytest.raises(UserError, match="seed=-1"):
    data.train_batches(numbered_split(), seed=-1, batch_size=8, start_step=0, sharding=batch_sharding())


@pytest.mark.parametrize(
  ("batch_size", "message"), [(24, "number of training images"), (0, "must lie in"), (12, "does not divide")]
)
def test_impossible_batch_sizes_are_user_errors_at_the_call(batch_size, message):
  with pytest.raises(UserError, match=message):
    data.train_batches(
      numbered_split(), seed=0, batch_size=batch_size, start_step=0, sharding=batch_sharding()
    )


def test_the_sets_in_memory_are_replicated_once_and_streams_not_at_all():
  split = numbered_split()
  on_device = data.resident(split, batch_sharding())
  assert on_device["image"].sharding.is_fully_replicated
  np.testing.assert_array_equal(on_device["image"], split.images)
  assert data.resident(NumberedStream(), batch_sharding()) == {}
