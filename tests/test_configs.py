"""Every config builds, with every data preset, and says how it is run."""

import importlib
import pathlib

import pytest

from configs import base
from convnn_jax.training import config as config_lib
from convnn_jax.training.assemble import assemble

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(
  p.name for p in (ROOT / "configs").glob("*.py") if p.stem not in ("__init__", "base", "recipes")
)


@pytest.mark.parametrize("name", CONFIGS)
def test_docstring_holds_the_command_and_a_figure(name):
  doc = importlib.import_module(f"configs.{name.removesuffix('.py')}").__doc__
  assert f"python train.py --config=configs/{name}" in doc
  assert "Published" in doc or "not yet run" in doc


# Parameters with 10 classes, counted in the published code. Re-attention, which has no count there, adds
# 192 + 3 * 3 + 2 * 3 values to each of 12 softmax blocks. The count for conv1d is that of branching with ratio 0
# less its unused mixing layer.
NUM_PARAMS = {
  "branching_attention.py": 5_049_610,
  "branching_conv.py": 5_827_210,
  "conv1d.py": 9_027_466 - 444_672,
  "convnn_k9.py": 5_500_042,
  "knn.py": 5_479_306,
  "local.py": 5_479_306,
  "neighborhood.py": 5_481_610,
  "reattention.py": 5_479_306 + 12 * (192 + 9 + 6),
  "sparse.py": 5_479_306,
  "vit_softmax.py": 5_479_306,
  # 1000 classes
  "swin_t.py": 28_288_354,
  "swin_t_qkres.py": 28_288_354,
  "swin_t_qkres_rpw.py": 28_311_676,
  "swin_t_qkres_rpw_premlp.py": 28_386_076,
  "swinv2_t.py": 28_347_154,
  "swinv2_t_qkres_rpw.py": 28_436_242,
  "swinv2_t_qkres_rpw_premlp.py": 34_713_202,
  "swin_mlp_t.py": 20_386_632,
  # 10 classes; our sizes
  "swin_nano.py": 3_048_694,
  "swin_nano_qkres.py": 3_048_694,
  "swin_nano_qkres_rpw.py": 3_048_694 + 49 * (2 * 2 + 2 * 4 + 6 * 8),
  "swin_nano_qkres_rpw_premlp.py": 3_070_402,
  "swinv2_nano.py": 3_089_878,
  "swin_mlp_nano.py": 2_079_418,
  # 9 taps in place of tables, and no biases on query, key, value and out.
  "swin_nano_convnn.py": 3_048_694 + 9 * (2 + 2 + 6) * 24 - 49 * 60 - 4 * (2 * 48 + 2 * 96 + 6 * 192),
}
# Pixels, where it is not 224.
IMAGE_SIZES = {name: 256 if "_t" in name else 32 for name in NUM_PARAMS if "swinv2" in name or "nano" in name}
IMAGE_SIZES["swin_mlp_t.py"] = 256


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds_as_published(name):
  """On the data it is made for; shapes only."""
  pieces = assemble(config_lib.load(f"configs/{name}"))
  side = IMAGE_SIZES.get(name, 224)
  assert pieces.info.image_shape == (side, side, 3)
  assert pieces.num_params == NUM_PARAMS[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds_on_digits(name):
  pieces = assemble(config_lib.load(f"configs/{name}:digits"))
  assert pieces.info.image_shape == (8, 8, 1)
  assert pieces.num_params < 300_000


@pytest.mark.parametrize("preset", sorted(base.PRESETS))
def test_every_preset_builds(preset, tmp_path):
  if preset == "folder":
    for part in ("train", "test"):
      for label in ("a", "b"):
        (tmp_path / part / label).mkdir(parents=True)
        for number in range(256):
          (tmp_path / part / label / f"{number}.png").touch()
    preset = f"folder={tmp_path}"
  pieces = assemble(config_lib.load(f"configs/convnn_k9.py:{preset}", ["--config.model.depth=1"]))
  y, x, c = pieces.info.image_shape
  assert y == x
  assert pieces.state_shapes.params["head"]["kernel"].shape[1] == pieces.info.num_classes
