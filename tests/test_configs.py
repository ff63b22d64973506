"""Every config builds, with every data preset, says how it is run, and resolves to the text that is stored for it.

After a change that is meant: PYTHONPATH=. python tests/test_configs.py writes the texts anew; look at the difference.
"""

import importlib
import json
import pathlib

import pytest

from configs import base
from convnn_jax.errors import UserError
from convnn_jax.report.points import read_points
from convnn_jax.training import config as config_lib
from convnn_jax.training.assemble import assemble

ROOT = pathlib.Path(__file__).parents[1]
TEXTS = ROOT / "tests" / "golden" / "configs"
SHARED = {"__init__", "base", "common", "recipes"}  # read by configs, no experiments
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.py") if p.stem not in SHARED)


@pytest.mark.parametrize("name", CONFIGS)
def test_docstring_holds_the_command_and_a_figure(name):
  doc = importlib.import_module(name.removesuffix(".py").replace("/", ".")).__doc__
  assert f"python train.py --config={name}" in doc
  assert "Published" in doc or "not yet run" in doc
  assert "Measured" in doc


# Parameters with 10 classes, counted in the published code. Re-attention, which has no count there, adds
# 192 + 3 * 3 + 2 * 3 values to each of 12 softmax blocks. The counts for conv1d and for values alone are those
# published less the unused layers that are allocated there. The attention study's models have a position per token
# here, 4097 and 785 for 5 tokens there.
NUM_PARAMS = {
  "attention_study": 1_288_330,
  "branching_attention": 5_049_610,
  "branching_conv": 5_827_210,
  "cnn": 1_626_442,
  "conv1d": 9_027_466 - 444_672,
  "cct": 3_760_139,
  "cct_2_3x2": 283_723,
  "convnn_k9": 5_500_042,
  "deepvit": 1_812_250 - (4097 - 5) * 128,
  "hybrid": 1_715_402 - (785 - 5) * 128,
  "knn": 5_479_306,
  "local": 5_479_306,
  "neighborhood": 5_481_610,
  "reattention": 5_479_306 + 12 * (192 + 9 + 6),
  **dict.fromkeys(("sot_q", "sot_q_no_softmax", "sot_qk", "sot_qk_no_softmax", "sot_qkt"), 283_723),
  "sot_entropy_sweep": 283_723,
  "sot_study": 283_723,
  "sparse": 5_479_306,
  # ViT-B/16 has 86,567,656 with 1000 classes.
  "vit_finetune": 86_567_656 - 990 * 769,
  "vit_softmax": 5_479_306,
  # Swin, with the 1000 classes of ImageNet.
  "swin_t": 28_288_354,
  "swin_t_qkres": 28_288_354,
  "swin_t_qkres_rpw": 28_311_676,
  "swin_t_qkres_rpw_premlp": 28_386_076,
  "swinv2_t": 28_347_154,
  "swinv2_t_qkres_rpw": 28_436_242,
  "swinv2_t_qkres_rpw_premlp": 34_713_202,
  "swin_mlp_t": 20_386_632,
  # For small images: our sizes, counted in the published code. Attention by ConvNN has 9 taps in place of tables and no
  # biases on query, key, value and out.
  "swin_nano": 3_048_694,
  "swin_nano_qkres": 3_048_694,
  "swin_nano_qkres_rpw": 3_048_694 + 49 * (2 * 2 + 2 * 4 + 6 * 8),
  "swin_nano_qkres_rpw_premlp": 3_070_402,
  "swin_redundancy": 3_048_694,
  "swinv2_nano": 3_089_878,
  "swin_mlp_nano": 2_079_418,
  "swin_nano_convnn": 3_048_694 + 9 * (2 + 2 + 6) * 24 - 49 * 60 - 4 * (2 * 48 + 2 * 96 + 6 * 192),
  "ablations/exp01_qkv": 5_931_658,
  "ablations/exp02_v_only": 5_931_658 - 889_344,
  "ablations/exp03_branching_attention": 5_159_434,
  "ablations/exp03_branching_conv": 5_046_922,
  "ablations/exp04_full_softmax": 5_931_658,
  "ablations/exp05_no_dropout": 5_931_658,
  "ablations/exp06_temperature": 5_931_658,
  "ablations/exp07_sum": 5_931_658,
  "ablations/exp08_topk_softmax": 5_931_658,
  "ablations/exp09_one_head": 9_472_138,
  "ablations/exp10_value_features": 5_530_246,
  "ablations/exp11_value_features_heads": 5_115_310,
  "ablations/exp12_depthwise_separable": 5_956_234,
  "ablations/exp13_no_value": 9_027_466,
  "ablations/like_knn": 5_500_042,
}


def text_of(name):
  """(where it is stored, the resolved config and the number of parameters as text); shapes only."""
  config = config_lib.load(name)
  content = {"num_params": assemble(config).num_params, "config": json.loads(config_lib.to_json(config))}
  stored = TEXTS / pathlib.Path(name).relative_to("configs").with_suffix(".json")
  return stored, json.dumps(content, indent=1, sort_keys=True) + "\n"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_resolves_to_its_stored_text(name):
  stored, text = text_of(name)
  assert stored.is_file(), f"{stored} is missing; see the top of {pathlib.Path(__file__).name}"
  assert json.loads(text) == json.loads(stored.read_text())


def test_stored_texts_have_their_configs_and_the_published_parameter_counts():
  stored = {
    str(p.relative_to(TEXTS).with_suffix("")): json.loads(p.read_text()) for p in TEXTS.rglob("*.json")
  }
  assert stored.keys() == {name.removeprefix("configs/").removesuffix(".py") for name in CONFIGS}
  assert {name: stored[name]["num_params"] for name in NUM_PARAMS} == NUM_PARAMS


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds_on_digits(name):
  pieces = assemble(config_lib.load(f"{name}:digits"))
  assert pieces.info.image_shape == (8, 8, 1)
  assert pieces.num_params < 400_000


@pytest.mark.parametrize("name", ["cct_2_3x2", "sot_qkt", "sot_entropy_sweep"])
@pytest.mark.parametrize(
  ("data", "sides"), [("fashion_mnist", {28, 32}), ("cifar100", {32}), ("imagenet", {32})]
)
def test_compact_transformers_keep_their_image_size(name, data, sides):
  pieces = assemble(config_lib.load(f"configs/{name}.py:{data}"))
  assert pieces.info.image_shape[0] in sides


def test_the_entropy_sweep_has_forty_values_and_three_seeds():
  module = importlib.import_module("configs.sot_entropy_sweep")
  points = module.sweep()
  assert len({tuple(point.values()) for point in points}) == len(points) == 120
  values = sorted({point["model.attention.regularization"] for point in points})
  assert (values[0], values[1], values[-1], len(values)) == (0.025, 0.05, 1.0, 40)
  words = [f"--config.{field}={value}" for field, value in points[-1].items()]
  config = config_lib.load("configs/sot_entropy_sweep.py:digits", words)
  assert (config.model.attention.regularization, config.seed) == (1.0, 2)


@pytest.mark.parametrize("argument", ["digits", "fashion_mnist,small"])
def test_the_study_of_redundancy_has_eight_variants_and_three_seeds(argument):
  points = read_points(f"configs/swin_redundancy.py:{argument}", [])
  assert [point.part for point in points] == ["points"] * 21 + ["baseline"] * 3
  assert {point.config.seed for point in points} == {0, 1, 2}
  additions = lambda c: (
    c.model.norm_placement,
    c.model.pre_mlp,
    c.model.sw_mlp,
    *_of_attention(c.model.attention),
  )
  assert [additions(point.config) for point in points[::3]] == [
    ("pre", "none", "none", True, "none"),
    ("pre", "none", "none", True, "table"),
    ("pre", "stem", "none", True, "table"),
    ("pre", "stage", "none", True, "table"),
    ("pre", "none", "spatial", False, "none"),
    ("post", "none", "none", False, "none"),
    ("post", "stage", "none", True, "mlp"),
    ("pre", "none", "none", False, "none"),
  ]
  rest = {
    (p.config.data.name, p.config.num_epochs, p.config.model.width, p.config.model.depths) for p in points
  }
  assert len(rest) == 1


def _of_attention(spec):
  return spec.qk_residual, spec.rel_pos_weight


def test_the_study_of_redundancy_names_a_word_that_it_does_not_know():
  with pytest.raises(UserError, match="word of the study's argument 'qkress'. Did you mean 'qkres'"):
    config_lib.load("configs/swin_redundancy.py:qkress,digits")


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


if __name__ == "__main__":
  for config_name in CONFIGS:
    place, new = text_of(config_name)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(new)
