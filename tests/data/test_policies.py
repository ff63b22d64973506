"""What AutoAugment and RandAugment draw: frequencies, ranges, and nothing at strength 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax.data import policies
from convnn_jax.data.pixel_ops import BICUBIC, BILINEAR, NEAREST, OPERATIONS
from tests.data.test_pixel_ops import FILL, NAMES, compiled, photographs
from tests.fast_jit import fast_jit

SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "color", "contrast", "brightness", "sharpness")


def close_to(count, n, probability):
  return abs(count - n * probability) < 5 * np.sqrt(n * probability * (1 - probability)) + 1e-9


def test_the_published_tables():
  cifar = policies.parse_policy(policies.POLICIES["cifar10"])
  imagenet = policies.parse_policy(policies.POLICIES["imagenet"])
  assert (len(cifar), len(imagenet)) == (25, 25)
  assert cifar[0] == (("invert", 0.1, 0.0), ("contrast", 0.2, pytest.approx(0.6)))
  assert cifar[3] == (
    ("shear_y", 0.5, pytest.approx(0.8 / 3)),
    ("translate_y", 0.7, pytest.approx(150 / 331)),
  )
  assert cifar[5][1] == ("posterize", 0.3, 5.0)
  assert cifar[18] == (("autocontrast", 0.8, 0.0), ("solarize", 0.2, pytest.approx(256 / 9)))
  assert cifar[24] == (("translate_y", 0.7, pytest.approx(150 / 331)), ("autocontrast", 0.9, 0.0))
  assert imagenet[0] == (("posterize", 0.4, 4.0), ("rotate", 0.6, 30.0))
  assert imagenet[14] == (("color", 0.6, pytest.approx(0.4)), ("contrast", 1.0, pytest.approx(0.8)))
  # Sums over the tables, added up from the paper by hand: an entry that slips is seen.
  assert sum(p for row in cifar for _, p, _ in row) == pytest.approx(26.5)
  for policy in policies.POLICIES:
    assert set(policies.policy_names(policy)) <= set(OPERATIONS)
    assert policies.policy_names(policy)[0] == "identity"


@pytest.mark.parametrize("policy", sorted(policies.POLICIES))
def test_autoaugment_draws_as_its_table_says(policy):
  b = 20_000
  names, rows = policies.policy_names(policy), policies.parse_policy(policies.POLICIES[policy])
  plan = jax.device_get(fast_jit(lambda key: policies.autoaugment_plan(key, b, policy))(jax.random.key(1)))
  for layer in range(2):
    for name in names[1:]:
      probability = sum(row[layer][1] for row in rows if row[layer][0] == name) / len(rows)
      mine = plan.op[layer] == names.index(name)
      assert close_to(mine.sum(), b, probability), (layer, name)
      if not mine.any():
        continue
      legal = {row[layer][2] for row in rows if row[layer][0] == name and row[layer][1]}
      values = plan.value[layer][mine]
      if name in SIGNED:
        values = values - (1 if name in ("color", "contrast", "brightness", "sharpness") else 0)
        if max(legal) > 0:
          assert close_to((values[np.abs(values) > 1e-6] > 0).sum(), (np.abs(values) > 1e-6).sum(), 0.5)
        values = np.abs(values)
      assert all(min(abs(value - x) for x in legal) < 1e-4 for value in np.unique(values))
      method = BICUBIC if name in ("shear_x", "shear_y") else NEAREST
      assert (plan.interpolation[layer][mine] == method).all()
  # The two operations of an image are of one sub-policy.
  pairs = {(row[0][0], row[1][0]) for row in rows}
  both = (plan.op > 0).all(axis=0)
  assert {(names[i], names[j]) for i, j in plan.op[:, both].T} <= pairs


def randaugment(b=30_000, **changes):
  numbers = dict(layers=2, magnitude=9.0, std=0.5, probability=0.5, interpolation="random") | changes
  return jax.device_get(fast_jit(lambda key: policies.randaugment_plan(key, b, **numbers))(jax.random.key(2)))


def test_randaugment_draws_uniformly_and_in_range():
  plan, names = randaugment(), policies.RANDAUGMENT
  n = plan.op.size
  assert len(names) == 16
  assert close_to((plan.op == 0).sum(), n, 0.5)
  bounds = {
    "rotate": (-30, 30),
    "posterize": (0, 1),
    "solarize": (0, 256 * 0.4),
    "solarize_add": (66, 110),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), (0.1, 1.9)),
    **dict.fromkeys(("shear_x", "shear_y"), (-0.3, 0.3)),
    **dict.fromkeys(("translate_x", "translate_y"), (-0.45, 0.45)),
  }
  for op, name in enumerate(names[1:], start=1):
    mine = plan.op == op
    assert close_to(mine.sum(), n, 0.5 / 15), name
    if name in bounds:
      low, high = bounds[name]
      assert (plan.value[mine] >= low - 1e-6).all(), name
      assert (plan.value[mine] <= high + 1e-6).all(), name
    if name in SIGNED or name == "rotate":
      center = 1 if name in ("color", "contrast", "brightness", "sharpness") else 0
      assert close_to((plan.value[mine] > center).sum(), mine.sum(), 0.5), name
  assert set(np.unique(plan.interpolation)) == {BILINEAR, BICUBIC}
  degrees = np.abs(plan.value[plan.op == names.index("rotate")]) / 3  # magnitudes, cut at 10
  assert degrees.mean() == pytest.approx(9, abs=0.1)
  assert degrees[degrees < 10].std() == pytest.approx(0.5, abs=0.06)
  assert close_to((degrees >= 10 - 1e-5).sum(), len(degrees), 0.0228)


def test_randaugment_grows_with_its_magnitude():
  """The published arguments at m = 9 and at 0, without spread."""
  names = policies.RANDAUGMENT
  for magnitude, expected in (
    (
      9.0,
      {
        "posterize": 1,
        "solarize": 26,
        "solarize_add": 99,
        "rotate": 27,
        "shear_x": 0.27,
        "translate_y": 0.405,
      },
    ),
    (0.0, {"posterize": 4, "solarize": 256, "solarize_add": 0, "rotate": 0, "shear_x": 0, "translate_y": 0}),
  ):
    plan = randaugment(b=2000, magnitude=magnitude, std=0.0, probability=1.0, interpolation="bicubic")
    assert (plan.op > 0).all()
    assert (plan.interpolation == BICUBIC).all()
    for name, value in expected.items():
      np.testing.assert_allclose(np.abs(plan.value[plan.op == names.index(name)]), value, rtol=1e-5)
    factors = plan.value[plan.op == names.index("color")]
    near = np.abs(factors[:, None] - np.array([1 - 0.09 * magnitude, 1 + 0.09 * magnitude])).min(axis=1)
    assert (near < 1e-5).all()


def test_magnitude_zero_and_probability_zero_leave_images_alone():
  images, names = photographs(), policies.RANDAUGMENT
  assert (randaugment(probability=0.0).op == 0).all()
  # These have no strength, or keep 4 bits at strength 0.
  always = ("autocontrast", "equalize", "invert", "posterize")
  weak = randaugment(b=6 * 40, magnitude=0.0, std=0.0, probability=1.0)
  weak = jax.tree.map(lambda x: x.reshape(2 * 40, 6), weak)
  op = np.where(np.isin(weak.op, [names.index(name) for name in always]), 0, weak.op)
  assert len(np.unique(op)) == 12
  numbers = np.array([NAMES.index(name) for name in names])  # one compilation with the tests against Pillow
  for layer in range(80):
    draws = numbers[op[layer]], weak.value[layer], weak.interpolation[layer]
    got = compiled()(images, NAMES, *(jnp.asarray(draw) for draw in draws), np.array(FILL))
    np.testing.assert_array_equal(got, images)
