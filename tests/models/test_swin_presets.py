"""Parameters and multiply-adds of every named Swin against those of the published code."""

import jax
import jax.numpy as jnp
import pytest

from convnn_jax.models import make_model
from convnn_jax.models.swin_presets import SWIN
from convnn_jax.training import summary

# name -> (parameters, multiply-adds, classes if not 1000)
PUBLISHED = {
  "swin_tiny": (28_288_354, 4_494_405_120),
  "swin_small": (49_606_258, 8_746_520_064),
  "swin_base": (87_768_224, 15_438_473_216),
  "swin_large": (196_532_476, 34_487_049_216),
  "swin_base_384": (87_903_584, 47_105_253_376),
  "swin_large_384": (196_735_516, 103_952_265_216),
  "swin_tiny_c24": (28_306_432, 5_926_041_600),
  "swinv2_tiny_w8": (28_347_154, 5_925_697_536),
  "swinv2_tiny_w16": (28_347_154, 6_605_174_784),
  "swinv2_small_w8": (49_728_418, 11_514_869_760),
  "swinv2_small_w16": (49_728_418, 12_647_331_840),
  "swinv2_base_w8": (87_918_816, 20_285_661_184),
  "swinv2_base_w16": (87_918_816, 21_795_610_624),
  "swinv2_base_w12": (109_280_841, 11_782_239_232, 21841),
  "swinv2_base_w12to16": (87_918_816, 21_795_610_624),
  "swinv2_base_w12to24": (87_918_816, 54_748_340_224),
  "swinv2_large_w12": (228_772_549, 25_996_955_136, 21841),
  "swinv2_large_w12to16": (196_739_932, 47_490_920_448),
  "swinv2_large_w12to24": (196_739_932, 115_416_895_488),
  "swin_mlp_tiny_c24": (20_386_632, 4_031_920_128),
  "swin_mlp_tiny_c12": (21_152_072, 4_031_920_128),
  "swin_mlp_tiny_c6": (22_682_952, 4_031_920_128),
  "swin_mlp_base": (60_659_416, 10_419_612_544),
  "swin_tiny_qkres": (28_288_354, 4_494_405_120),
  "swin_tiny_qkres_rpw": (28_311_676, 4_494_405_120),
  "swin_tiny_qkres_rpw_premlp": (28_386_076, 4_725_616_128),
  "swinv2_tiny_w8_qkres": (28_347_154, 5_925_697_536),
  "swinv2_tiny_w8_qkres_rpw": (28_436_242, 5_925_697_536),
  "swinv2_tiny_w8_qkres_rpw_premlp": (34_713_202, 7_133_657_088),
  "swin_nano": (3_048_694, 75_204_480, 10),
  "swin_nano_qkres_rpw_premlp": (3_070_402, 79_923_072, 10),
  "swinv2_nano": (3_089_878, 75_195_264, 10),
  "swin_mlp_nano": (2_079_418, 50_960_256, 10),
  "swin_micro": (12_141_604, 296_685_312, 10),
  "swin_micro_qkres_rpw_premlp": (12_220_414, 315_559_680, 10),
  "swinv2_micro": (12_194_692, 296_666_880, 10),
  "swin_mlp_micro": (8_242_570, 201_010_944, 10),
  "swin_small32": (10_372_132, 354_561_792, 10),
  "swin_small32_qkres_rpw_premlp": (10_450_942, 373_436_160, 10),
  "swinv2_small32": (10_428_292, 354_543_360, 10),
  "swin_mlp_small32": (7_062_922, 239_914_752, 10),
  "swin_tiny32": (27_505_108, 358_098_432, 10),
  "swin_tiny32_qkres_rpw_premlp": (27_584_350, 376_972_800, 10),
  "swinv2_tiny32": (27_582_388, 358_076_928, 10),
  "swin_mlp_tiny32": (18_881_866, 243_525_120, 10),
}
# The others take seconds each to trace.
FAST = {
  "swin_tiny",
  "swinv2_tiny_w8_qkres_rpw_premlp",
  "swin_tiny_qkres_rpw_premlp",
  "swin_mlp_nano",
  "swinv2_nano",
}
FAST |= {"swin_nano_qkres_rpw_premlp", "swin_mlp_tiny_c24"}


def norms(spec, side):
  """Elements of all normalised maps, which the published code counts, in the way in which it does."""
  width, stages = spec["width"], len(spec["depths"])
  total = side**2 * width
  for stage, depth in enumerate(spec["depths"]):
    area, c = (side // 2**stage) ** 2, width * 2**stage
    total += depth * 2 * area * c
    if stage < stages - 1:
      total += area * c // (2 if spec.get("norm_placement") == "post" else 1)
  # It divides the last grid by 2 once per stage instead of by 4 once per merging.
  return total + width * 2 ** (stages - 1) * side**2 // 2**stages


def position_mlps(params):
  """Multiply-adds of networks over offsets, which the published code leaves out: (offsets) * (kernels)."""
  total = 0
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    names = [key.key for key in path]
    if {"relative_bias_mlp", "rel_pos_weight_mlp"} & set(names) and names[-1] == "kernel":
      total += leaf.size
  return total


@pytest.mark.parametrize(
  "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED]
)
def test_cost_is_the_published_one(name):
  num_params, multiply_adds, *classes = PUBLISHED[name]
  sizes = SWIN[name]
  spec, image = sizes["model"], sizes["image_size"]
  model = make_model(spec, num_classes=classes[0] if classes else 1000)
  init = lambda key: model.init(key, jnp.zeros((1, image, image, 3)), train=False)
  flops, shapes = summary.flops_and_shapes(init, jax.random.key(0))
  assert summary.num_params(shapes["params"]) == num_params
  side = image // spec["patch_size"]
  mlps = 0
  for stage in range(len(spec["depths"])):
    window = min(spec["window_size"][0], side // 2**stage)
    mlps += (2 * window - 1) ** 2 * position_mlps(shapes["params"][f"stage_{stage}"])
  assert flops // 2 - mlps + norms(spec, side) == multiply_adds


def test_every_preset_is_listed():
  sizes = ("nano", "micro", "small32", "tiny32")
  extra = {f"swin_{size}_{kind}" for size in sizes for kind in ("qkres", "qkres_rpw")}
  extra |= {f"swinv2_{size}_qkres_rpw_premlp" for size in sizes}
  assert SWIN.keys() == PUBLISHED.keys() | extra
