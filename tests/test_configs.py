"""Every config builds, with every data preset, and says how it is run."""

import importlib
import pathlib

import pytest

from configs import base
from convnn_jax.errors import UserError
from convnn_jax.training import config as config_lib
from convnn_jax.training.assemble import assemble

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(p.name for p in (ROOT / "configs").glob("*.py") if p.stem not in ("__init__", "base"))


@pytest.mark.parametrize("name", CONFIGS)
def test_docstring_holds_the_command_and_a_figure(name):
  doc = importlib.import_module(f"configs.{name.removesuffix('.py')}").__doc__
  assert f"python train.py --config=configs/{name}" in doc
  assert "Published" in doc or "not yet run" in doc


# Parameters with 10 classes, counted in the published code. Re-attention, which has no count there, adds
# 192 + 3 * 3 + 2 * 3 values to each of 12 softmax blocks. The count for conv1d is that of branching with ratio 0
# less its unused mixing layer. The attention study's have a position per token, there 4097 and 785 for 5 tokens.
NUM_PARAMS = {
  "attention_study.py": 1_288_330,
  "branching_attention.py": 5_049_610,
  "branching_conv.py": 5_827_210,
  "cnn.py": 1_626_442,
  "conv1d.py": 9_027_466 - 444_672,
  "convnn_k9.py": 5_500_042,
  "deepvit.py": 1_812_250 - (4097 - 5) * 128,
  "hybrid.py": 1_715_402 - (785 - 5) * 128,
  "knn.py": 5_479_306,
  "local.py": 5_479_306,
  "neighborhood.py": 5_481_610,
  "reattention.py": 5_479_306 + 12 * (192 + 9 + 6),
  "sparse.py": 5_479_306,
  "vit_softmax.py": 5_479_306,
}


STUDY = ("attention_study.py", "cnn.py", "deepvit.py", "hybrid.py")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds_as_published(name):
  """CIFAR-10, ViT-Tiny at 224 or the attention study at 32; shapes only."""
  pieces = assemble(config_lib.load(f"configs/{name}"))
  side = 32 if name in STUDY else 224
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


def test_the_study_repeats_the_published_protocol():
  from configs import attention_study

  pieces = assemble(config_lib.load("configs/attention_study.py:deepvit,mnist,published"))
  assert pieces.num_params == 1_615_010
  assert pieces.info.mean == (0.1307,)
  rates = [float(pieces.schedule(epoch * pieces.steps_per_epoch)) for epoch in range(15)]
  assert rates == pytest.approx([1e-4 * 0.7**epoch for epoch in range(15)], rel=1e-5)
  config = attention_study.get_config("hybrid,cifar100,published")
  assert config.data.normalization == "mnist"  # of three channels, too
  assert assemble(config_lib.override(config, [])).num_params == 1_727_012
  assert attention_study.get_config().data.normalization == "dataset"
  with pytest.raises(UserError, match="word of the study's argument 'hybird'. Did you mean 'hybrid'"):
    attention_study.get_config("hybird,mnist")


@pytest.mark.parametrize(
  ("argument", "runs"), [("digits", 12), ("mnist", 30), ("cnn,mnist", 3), ("vit,base6,cifar10", 3)]
)
def test_the_sweep_of_the_study_lists_every_model_size_and_seed(argument, runs):
  from configs import attention_study

  changes = attention_study.sweep(argument)
  assert len(changes) == runs == len({tuple(change.items()) for change in changes})


def test_the_sweep_of_the_study_builds_the_presets():
  """From the overrides of a sweep the same model comes out as from its words."""
  from configs import attention_study

  load = lambda argument, change: config_lib.load(
    f"configs/attention_study.py:{argument}", [f"--config.{field}={value}" for field, value in change.items()]
  )
  changes = attention_study.sweep("mnist,published")[::3]
  words = [
    "cnn",
    *(f"{model},{size}" for model in ("vit", "deepvit", "hybrid") for size in ("small", "base12", "base6")),
  ]
  for change, choice in zip(changes, words, strict=True):
    assert load("mnist,published", change).model == load(f"{choice},mnist,published", {}).model
