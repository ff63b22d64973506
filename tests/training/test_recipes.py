"""The published recipes as configs: they build, keep their numbers, and say where they cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, recipes
from convnn_jax import data
from convnn_jax.errors import UserError
from convnn_jax.training import config as config_lib
from convnn_jax.training.assemble import assemble
from tests.training.test_step import setup

RECIPES = {
  "a": recipes.recipe_a,
  "b": recipes.recipe_b,
  "swin": recipes.swin_imagenet,
  "tune": recipes.swin_finetune,
}


def recipe(make, preset, *overrides, **arguments):
  config = base.get_config()
  config.model.update(depth=1, attention=dict(name="softmax", num_heads=1))
  make(config, **arguments)
  return config_lib.override(base.with_data(config, preset), overrides)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_fits_every_preset(name):
  for preset in ("cifar10", "cifar100", "imagenet", "fashion_mnist"):
    config = recipe(RECIPES[name], preset)
    assert config.data.augment[0] in ("autoaugment", "resized_crop")  # the recipe's, not the preset's
    pieces = assemble(config)
    assert pieces.num_steps == pieces.steps_per_epoch * config.num_epochs
  digits = recipe(RECIPES[name], "digits")
  assert digits.data.augment == ()  # a flipped digit is none
  schedule = assemble(digits).schedule
  assert max(float(schedule(s)) for s in (0, 219, 220)) == pytest.approx(3e-3)


def test_the_published_numbers():
  a, pieces = recipe(recipes.recipe_a, "cifar10"), None
  pieces = assemble(a)
  n = pieces.steps_per_epoch
  assert (a.batch_size, a.num_epochs, n) == (128, 200, 390)
  rates = [float(pieces.schedule(e * n)) for e in (0, 1, 2, 3, 4, 5, 199)]
  last = 2.5e-4 * (1 + np.cos(np.pi * 194 / 195))
  np.testing.assert_allclose(rates, [1e-4, 1.25e-4, 5e-4 / 3, 2.5e-4, 5e-4, 5e-4, last], rtol=1e-3)
  b = recipe(recipes.recipe_b, "cifar10")
  assert (b.num_epochs, b.data.mix_epochs, "erasing" in b.data.augment) == (310, 175.0, False)
  assert recipe(recipes.recipe_b, "cifar10", name="cifar10_1500").data.augment[-1] == "erasing"
  for name in recipes._RECIPE_B:
    assemble(recipe(recipes.recipe_b, "cifar10", name=name))
  swin = assemble(recipe(recipes.swin_imagenet, "imagenet"))
  rates = [float(swin.schedule(s)) for s in (0, 20 * swin.steps_per_epoch, swin.num_steps)]
  np.testing.assert_allclose(rates, [1e-6, 1e-3, 1e-5], rtol=1e-4)
  with pytest.raises(UserError, match="Unknown recipe B run 'cifar10_30'. Did you mean 'cifar10_300'"):
    recipe(recipes.recipe_b, "cifar10", name="cifar10_30")


def test_pairs_need_an_even_part(one_device):
  config = recipe(recipes.recipe_b, "cifar10", "--config.batch_size=24", "--config.optimizer.accumulate=8")
  with (
    one_device(),
    pytest.raises(UserError, match="batch_size=24 in optimizer.accumulate=8 parts gives 3 images"),
  ):
    assemble(config)


def test_mixing_stops_after_its_epochs(small_config, monkeypatch):
  """2 of 11 steps of the epoch; targets of zeros, hence no loss, stand for mixed ones."""

  def augment_batch(images, labels, key, config, info, mixing_enabled):
    targets = jnp.where(mixing_enabled, 0.0, jax.nn.one_hot(labels, info.num_classes))
    return data.normalise(images, config, info), targets

  monkeypatch.setattr(data, "augment_batch", augment_batch)
  words = ("--config.data.augment=('mixup',)", "--config.data.mix_epochs=0.2")
  _, update, state, resident, batches = setup(small_config(*words, attention="softmax"))
  losses = []
  for _, batch in zip(range(4), batches, strict=False):
    state, metrics = update(state, resident, batch)
    losses.append(float(metrics["loss"]))
  assert [loss > 0 for loss in losses] == [False, False, True, True]
