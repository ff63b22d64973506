"""Parameters of ViT-Tiny 224/16 with 10 classes around every published attention, as counted in the published code.

Attentions are counted by themselves: everything else is the same for all, which tests/models/test_vit.py checks on
whole models.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from convnn_jax.attention import make_attention
from convnn_jax.models import make_model

CONVOLUTIONS = ("depthwise", "standard", "depthwise_separable")


def size(module, *shape):
  made = jax.eval_shape(lambda k: module.init(k, jnp.zeros(shape), train=False), jax.random.key(0))
  return sum(leaf.size for leaf in jax.tree.leaves(made["params"]))


@functools.cache
def without_attention(num_classes=10):
  vit = make_model(
    dict(name="vit", depth=12, attention=dict(name="softmax", num_heads=3)), num_classes=num_classes
  )
  return size(vit, 1, 224, 224, 3) - 12 * 4 * 192 * 192


def convnn(**fields):
  return dict(name="convnn", num_heads=1, num_neighbors=9) | fields


def first_versions(**fields):
  """The attention of the experiments: biases everywhere, a standard convolution."""
  biases = dict(qkv_bias=True, out_bias=True, convolution_bias=True)
  return convnn(num_heads=3, similarity="cosine", convolution="standard", **biases) | fields


def branching(ratio, first, second):
  return dict(name="branching", ratio=ratio, first=first, second=second)


def with_conv1d(ratio, first):
  return branching(ratio, first, dict(name="conv1d", num_heads=first["num_heads"]))


def with_softmax(ratio, first, bias=False):
  softmax = dict(name="softmax", num_heads=first["num_heads"], qkv_bias=bias, out_bias=bias)
  return branching(ratio, first, softmax)


def rows():
  yield dict(name="softmax", num_heads=3), 5_479_306
  yield dict(name="softmax", num_heads=1, qkv_bias=True, out_bias=True), 5_488_522
  yield dict(name="knn", num_heads=1, num_neighbors=9), 5_479_306
  yield dict(name="knn", num_heads=1, num_neighbors=9, out_bias=True), 5_481_610
  yield dict(name="knn", num_heads=3, num_neighbors=9, qkv_bias=True, out_bias=True), 5_488_522
  yield dict(name="sparse", num_heads=1), 5_479_306
  yield dict(name="local", num_heads=3), 5_479_306
  yield dict(name="local", num_heads=1), 4_299_658
  yield dict(name="neighborhood", num_heads=3), 5_481_610

  for heads, kind, counts in (
    (1, "depthwise", (5_481_610, 5_488_522, 5_500_042, 5_516_170, 5_536_906, 5_562_250, 5_592_202)),
    (1, "standard", (5_921_674, 7_248_778, 9_460_618, 12_557_194, 16_538_506, 21_404_554, 27_155_338)),
    (1, "depthwise_separable", (5_923_978, 5_930_890, 5_942_410, 5_958_538, 5_979_274, 6_004_618, 6_034_570)),
    (3, "depthwise", (5_480_074, 5_482_378, 5_486_218, 5_491_594, 5_498_506, 5_506_954, 5_516_938)),
    (3, "standard", (5_528_458, 5_675_914, 5_921_674, 6_265_738, 6_708_106, 7_248_778, 7_887_754)),
    (3, "depthwise_separable", (5_529_226, 5_531_530, 5_535_370, 5_540_746, 5_547_658, 5_556_106, 5_566_090)),
  ):
    for k, count in zip((1, 4, 9, 16, 25, 36, 49), counts, strict=True):
      yield convnn(num_heads=heads, num_neighbors=k, convolution=kind), count

  coordinates = dict(coordinate_encoding=True)
  yield convnn(convolution="standard", **coordinates), 9_481_354
  yield convnn(convolution="depthwise_separable", **coordinates), 5_944_822
  yield convnn(num_heads=3, convolution="standard", **coordinates), 5_928_586
  yield convnn(num_heads=3, convolution="depthwise_separable", **coordinates), 5_536_246

  # The first versions. One head: the table of the notes (where 16,550,026 is misprinted as 16,550,062).
  for k, count in {
    4: 7_260_298,
    9: 9_472_138,
    16: 12_568_714,
    25: 16_550_026,
    36: 21_416_074,
    49: 27_166_858,
  }.items():
    yield first_versions(num_heads=1, num_neighbors=k), count
  for k, count in {
    1: 5_538_442,
    4: 5_685_898,
    9: 5_931_658,
    16: 6_275_722,
    25: 6_718_090,
    36: 7_258_762,
    49: 7_897_738,
  }.items():
    yield first_versions(num_neighbors=k), count
  yield first_versions(**coordinates), 5_938_570
  whole = dict(split_heads=False)
  for k, count in {
    4: 5_944_714,
    9: 5_956_234,
    16: 5_972_362,
    25: 5_993_098,
    36: 6_018_442,
    49: 6_048_394,
  }.items():
    yield first_versions(num_neighbors=k, convolution="depthwise_separable", **whole), count
  ks = (4, 9, 16, 25, 36, 49, 64, 81, 100)
  narrow = {
    21: (
      *(5_288_326, 5_530_246, 5_868_934, 6_304_390, 6_836_614),
      *(7_465_606, 8_191_366, 9_013_894, 9_933_190),
    ),
    3: (
      *(5_080_750, 5_115_310, 5_163_694, 5_225_902, 5_301_934),
      *(5_391_790, 5_495_470, 5_612_974, 5_744_302),
    ),
  }
  for features, counts in narrow.items():
    for k, count in zip(ks, counts, strict=True):
      yield first_versions(num_neighbors=k, value_features=features, **whole), count
  no_value = dict(projection="qk")
  yield first_versions(num_heads=1, num_neighbors=4, **no_value), 6_815_626
  yield first_versions(num_heads=1, num_neighbors=9, **no_value), 9_027_466
  yield first_versions(num_heads=1, num_neighbors=16, **no_value), 12_124_042
  yield first_versions(num_heads=3, num_neighbors=9, **no_value), 5_486_986

  for heads, table in {
    1: {0.25: (7_259_146, 5_519_050), 0.5: (6_817_930, 6_044_938), 0.75: (7_703_818, 7_510_858)},
    3: {0.25: (5_045_770, 5_297_482), 0.5: (5_046_922, 5_159_434), 0.75: (5_490_442, 5_519_050)},
  }.items():
    for ratio, (conv, softmax) in table.items():
      yield with_conv1d(ratio, first_versions(num_heads=heads)), conv
      yield with_softmax(ratio, first_versions(num_heads=heads), bias=True), softmax
  for heads, tables in {
    1: (
      ((7_012_618, 5_265_610), (5_827_210, 5_049_610), (5_471_242, 5_275_978)),
      ((7_256_266, 5_509_258), (6_812_170, 6_034_570), (7_695_178, 7_499_914)),
      ((7_040_266, 5_293_258), (5_937_802, 5_160_202), (5_720_074, 5_524_810)),
    ),
    3: (
      ((5_017_354, 5_262_154), (4_934_794, 5_042_698), (5_239_306, 5_265_610)),
      ((5_043_274, 5_288_074), (5_041_930, 5_149_834), (5_482_954, 5_509_258)),
      ((5_020_426, 5_265_226), (4_947_082, 5_054_986), (5_266_954, 5_293_258)),
    ),
  }.items():
    for kind, table in zip(CONVOLUTIONS, tables, strict=True):
      for ratio, (conv, softmax) in zip((0.25, 0.5, 0.75), table, strict=True):
        first = convnn(num_heads=heads, convolution=kind)
        yield with_conv1d(ratio, first), conv
        yield with_softmax(ratio, first), softmax
  # With ratio 0 or 1 the published code allocates a mixing layer of 444,672 parameters that it does not use.
  unused = 12 * (192 * 192 + 192)
  yield with_conv1d(0, convnn()), 9_027_466 - unused
  yield with_conv1d(0, convnn(num_heads=3)), 5_486_986 - unused
  yield with_softmax(0, convnn()), 5_923_978 - unused
  yield with_conv1d(1, convnn()), 5_944_714 - unused


def name_of(value):
  if not isinstance(value, dict):
    return str(value)
  return "-".join(name_of(v) for v in value.values())


@pytest.mark.parametrize(("spec", "count"), list(rows()), ids=name_of)
def test_count(spec, count):
  assert without_attention() + 12 * size(make_attention(spec), 1, 197, 192) == count


@pytest.mark.parametrize(("num_classes", "count"), [(100, 5_496_676), (1000, 5_670_376)])
def test_more_classes(num_classes, count):
  softmax = make_attention(dict(name="softmax", num_heads=3))
  assert without_attention(num_classes) + 12 * size(softmax, 1, 197, 192) == count
