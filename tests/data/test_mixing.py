"""Mixup and CutMix: labels in the shares of the pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy.special import betaincinv

from convnn_jax.data import mixing
from tests.fast_jit import fast_jit

B, SIZE = 8, 8
USUAL = dict(mixup_alpha=0.8, cutmix_alpha=1.0, probability=1.0, switch_probability=0.5)


def batch():
  """Image i is the constant 1 at channel i: what is mixed can be read off."""
  return jnp.broadcast_to(jnp.eye(B).reshape(B, 1, 1, B), (B, SIZE, SIZE, B)), jnp.eye(B)


@functools.cache
def compiled(**numbers):
  images, targets = batch()
  run = lambda key, enabled: mixing.mix(images, targets, key, **numbers, enabled=enabled)
  return fast_jit(jax.vmap(run, in_axes=(0, None)))


def many(enabled=True, **changes):
  """(images [1000 b y x c], targets [1000 b b]) of many batches."""
  return jax.device_get(compiled(**(USUAL | changes))(jax.random.split(jax.random.key(0), 1000), enabled))


def test_targets_are_the_shares_of_the_pixels_and_sum_to_one():
  images, targets = many()
  np.testing.assert_allclose(targets.sum(axis=-1), 1, atol=1e-6)
  np.testing.assert_allclose(images.mean(axis=(2, 3)), targets, atol=1e-5)
  partner = np.arange(B) ^ 1
  own = targets[:, np.arange(B), np.arange(B)]
  np.testing.assert_allclose(own + targets[:, np.arange(B), partner], 1, atol=1e-6)
  np.testing.assert_allclose(own, np.broadcast_to(own[:, :1], own.shape), atol=1e-6)  # one share per batch


def test_cutmix_exchanges_one_box_and_mixup_none():
  images, _ = many()
  cut = np.isin(images, (0, 1)).all(axis=(1, 2, 3, 4))
  blended = (images == images[:, :, :1, :1]).all(axis=(1, 2, 3, 4))
  assert (cut | blended).all()
  assert abs(cut.mean() - 0.5) < 5 * np.sqrt(0.25 / len(cut))
  for image in images[cut][:40, 0]:
    foreign = image[..., 1] == 1
    assert foreign.sum() == foreign.any(axis=0).sum() * foreign.any(axis=1).sum()


@pytest.mark.parametrize(
  ("word", "alpha"), [("mixup_alpha", 0.8), ("mixup_alpha", 4.0), ("cutmix_alpha", 1.0)]
)
def test_shares_have_their_distribution(word, alpha):
  off = {"mixup_alpha": "cutmix_alpha", "cutmix_alpha": "mixup_alpha"}[word]
  _, targets = many(**{word: alpha, off: 0.0})
  share = targets[:, 0, 0]
  assert share.min() >= 0
  assert share.max() <= 1
  variance = 1 / (4 * (2 * alpha + 1))  # of Beta(alpha, alpha)
  if word == "mixup_alpha":
    assert share.mean() == pytest.approx(0.5, abs=0.05)
    assert share.var() == pytest.approx(variance, rel=0.15)
  else:  # boxes are cut off at the border, so more of the image stays
    assert 0.6 < share.mean() < 0.85


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 4.0])
def test_the_table_of_beta(alpha):
  u = np.linspace(0.001, 0.999, 777)
  np.testing.assert_allclose(mixing.beta_quantile(u, alpha), betaincinv(alpha, alpha, u), atol=2e-4)


def test_the_box_leaves_its_share_unless_the_border_cuts_it():
  keys = jax.random.split(jax.random.key(1), 2000)
  run = fast_jit(jax.vmap(lambda key: mixing.cutmix_box(key, 0.75, (32, 64))))
  box = jax.device_get(run(keys))
  assert (box.height.max(), box.width.max()) == (16, 32)
  whole = (box.top > 0) & (box.top + box.height < 32) & (box.left > 0) & (box.left + box.width < 64)
  assert (box.height[whole] * box.width[whole] == 32 * 64 // 4).all()
  assert (box.top >= 0).all()
  assert (box.top + box.height <= 32).all()


def test_probability_and_the_switch():
  _, targets = many(probability=0.3)
  mixed = (targets[:, 0, 0] < 1).mean()
  assert abs(mixed - 0.3) < 5 * np.sqrt(0.21 / 1000)
  images, targets = many(enabled=False)
  np.testing.assert_array_equal(images, np.broadcast_to(batch()[0], images.shape))
  np.testing.assert_array_equal(targets, np.broadcast_to(np.eye(B), targets.shape))


def test_devices_change_nothing_and_whole_pairs_need_no_communication():
  run = jax.jit(lambda *arrays: mixing.mix(*arrays, jax.random.key(3), **USUAL, enabled=True))
  results = {}
  for devices in (1, 4, 8):  # of 8 rows: 4 devices hold whole pairs, 8 do not
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    arrays = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))) for x in batch()]
    program = run.lower(*arrays).compile()
    results[devices] = program(*arrays)
    if devices == 4:
      for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in program.as_text()
  for devices in (4, 8):
    for one, spread in zip(results[1], results[devices], strict=True):
      np.testing.assert_allclose(one, spread, atol=1e-6)
