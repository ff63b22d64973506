"""Swin checkpoints: every published name in every notation, resizing, heads, files, mistakes."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, recipes
from convnn_jax.convert import swin
from convnn_jax.convert.__main__ import main
from convnn_jax.convert.read import read_state, write_safetensors
from convnn_jax.convert.rules import flat, to_source
from convnn_jax.convert.swin_checkpoint import read_swin, write_swin
from convnn_jax.convert.swin_names import from_published, to_published
from convnn_jax.convert.swin_words import FLAVOURS, read_module
from convnn_jax.errors import UserError
from convnn_jax.models import make_model
from convnn_jax.ops.resize import resize_table
from convnn_jax.training import config as config_lib
from convnn_jax.training.assemble import assemble
from convnn_jax.training.optimizer import decay_mask
from convnn_jax.training.restore import fit_mesh, restore_variables
from convnn_jax.training.schedule import make_schedule

GOLDEN = Path(__file__).parents[1] / "golden" / "swin"
SPEC = dict(
  name="swin", patch_size=2, width=8, depths=(2, 1), window_size=(4, 4), position_embedding="learned"
)
SPEC |= dict(attention=dict(name="window", num_heads=(2, 4)))


def stored(name):
  return json.loads((GOLDEN / name).read_text())


def shapes(spec, side=16, classes=3):
  model = make_model(spec, num_classes=classes)
  init = lambda k: model.init(k, jnp.zeros((1, side, side, 3)), train=False)
  return jax.eval_shape(init, jax.random.key(0))["params"]


def random_like(tree):
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)


@pytest.mark.parametrize("model", ["swin_v1_tiny", "swin_v2_tiny"])
@pytest.mark.parametrize("notation", ["timm", "hf_hub", "hf_v5_module"])
def test_every_name_is_known_in_every_notation(model, notation):
  rng, state, published = np.random.default_rng(0), {}, {}
  for name, entry in stored("checkpoint_names.json")[model].items():
    published[name] = rng.normal(size=[min(n, 6) for n in entry["shape"]])
    there = entry[notation] if isinstance(entry[notation], list) else [entry[notation]]
    state |= dict(zip(there, np.split(published[name], len(there)), strict=True))
  read, source = to_published(state)
  assert source == {"timm": "timm"}.get(notation, "huggingface")
  jax.tree.map(np.testing.assert_array_equal, read, published)
  if notation != "hf_v5_module":  # what newer versions have in memory is not written
    jax.tree.map(np.testing.assert_array_equal, from_published(published, source), state)
  assert to_published(published)[1] == "published"


@pytest.mark.parametrize("source", ["published", "timm", "huggingface"])
def test_there_and_back_through_a_file(source, tmp_path):
  params = random_like(shapes(SPEC))
  write_safetensors(tmp_path / "swin.safetensors", write_swin(params, SPEC, source))
  read, lines = read_swin(read_state(str(tmp_path / "swin.safetensors")), SPEC, (16, 16), shapes(SPEC))
  jax.tree.map(np.testing.assert_array_equal, read, params)
  assert len(lines) == 1
  assert source in lines[0]


def test_tables_positions_and_head_follow_the_model():
  params = random_like(shapes(SPEC))
  state = write_swin(params, SPEC)
  larger = SPEC | dict(window_size=(6, 6))
  read, lines = read_swin(state, larger, (24, 24), shapes(larger, side=24, classes=5))
  assert read["position_embedding"]["table"].shape == (144, 8)
  old = params["stage_0"]["block_1"]["attention"]["relative_bias_table"]
  new = read["stage_0"]["block_1"]["attention"]["relative_bias_table"]
  np.testing.assert_allclose(new, resize_table(old, (7, 7), (11, 11)), atol=1e-6)
  assert not np.any(read["head"]["kernel"])
  text = "\n".join(lines)
  assert "resized from 4 x 4 to 6 x 6 (bicubic)" in text
  assert "resized from 8 x 8 to 12 x 12 (bicubic)" in text
  assert "head: 3 classes there, 5 here; it starts from zero" in text
  np.testing.assert_array_equal(
    read["stage_1"]["block_0"]["norm1"]["scale"], params["stage_1"]["block_0"]["norm1"]["scale"]
  )


def test_nothing_is_passed_over():
  state = write_swin(random_like(shapes(SPEC)), SPEC)
  state["layers.0.blocks.0.extra.weight"] = np.zeros(3, np.float32)
  del state["layers.1.blocks.0.norm1.bias"]
  with pytest.raises(
    UserError, match=r"not known here: layers.0.blocks.0.extra.weight.*without a source: stage_1/"
  ):
    read_swin(state, SPEC, (16, 16), shapes(SPEC))
  with pytest.raises(UserError, match="not attention.name='softmax'"):
    write_swin({}, SPEC | dict(attention=dict(name="softmax")))
  with pytest.raises(UserError, match="Did you mean 'timm'"):
    from_published({}, "tim")


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("missing.npz", None, "is not a file"),
    ("swin.txt", b"", "ends with '.txt'; known: .bin, .npz"),
    ("swin.safetensors", b"\xff" * 20, "cannot be read as .safetensors"),
    ("swin.npz", b"PK", "cannot be read as .npz"),
  ],
)
def test_files_that_cannot_be_read(name, content, message, tmp_path):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message):
    read_state(str(tmp_path / name))


def test_an_npz_with_objects_is_refused(tmp_path):
  np.savez(tmp_path / "swin.npz", x=np.array([{}], dtype=object))
  with pytest.raises(UserError, match="cannot be read as .npz"):
    read_state(str(tmp_path / "swin.npz"))


def test_published_decay_by_name():
  stores = stored("weight_decay_mask.json")
  options = stores["config"]
  modules = {
    "swin_v1": "SwinTransformer swin_v1",
    "swin_v2": "SwinTransformerV2 swin_v2",
    "swin_mlp": "SwinMLP swin_mlp",
    "fork_v1": "SwinTransformer fork_v1 + Pre MLP",
    "fork_v2_premlp": "SwinTransformerV2 fork_v2 final + Pre MLP per stage",
  }
  for kind, expected in stores["decays"].items():
    made = swin.conversion({**options, "module": modules[kind]})
    params = shapes(made.spec, side=options["img_size"], classes=options["num_classes"])
    mask = decay_mask("swin", params)
    fill = lambda decays, leaf: np.full(leaf.shape, decays)
    ours = to_source(jax.tree.map(fill, mask, params), made.rules)
    assert {name: bool(np.all(a)) for name, a in ours.items()} == expected, kind
    assert flat(mask).keys() == flat(params).keys()


def test_published_learning_rates():
  (case,) = stored("lr_schedule.json")
  optimizer = recipes.swin_imagenet(base.get_config()).optimizer
  optimizer.update(
    learning_rate=case["base_lr"],
    warmup_learning_rate=case["warmup_lr"],
    final_learning_rate=case["min_lr"],
    warmup_epochs=float(case["warmup_steps"]),
    learning_rate_batch=0,
  )
  schedule = make_schedule(optimizer, 1, case["total_steps"])
  np.testing.assert_allclose([float(schedule(t)) for t in case["t"]], case["lr"], rtol=2e-5)


def test_modules_are_read_in_full():
  assert read_module("SwinMLP swin_mlp") == ("SwinMLP", FLAVOURS["swin_mlp"])
  full = "SwinTransformer fork_v1 (QK residual (x), commit 1); weight table all zero = QK residual only, no Pre MLP (2)"
  assert read_module(full) == ("SwinTransformer", FLAVOURS["fork_v1"])
  stage = "SwinTransformerV2 fork_v2 final (raw bias) + Pre MLP, single stage of depth 0"
  assert read_module(stage)[1].pre_mlp == "stage"
  assert read_module("SwinTransformer fork_v1 (x) + Pre MLP")[1].pre_mlp == "stem"
  bounded = read_module("WindowAttention fork_v2 QK residual + 16*sigmoid CPW (commit 94a22b7)")[1].attention
  assert bounded["rel_pos_weight_bound"] == "sigmoid16"
  for module, message in (
    ("SwinTransformer swin_v2", "Unknown flavour of the published module 'SwinTransformer'"),
    ("SwinNet swin_v1", "Unknown published module 'SwinNet'"),
    ("SwinMLP swin_mlp + Post MLP", "Unknown remark"),
    ("SwinTransformer fork_v3", "Did you mean 'fork_v1'"),
  ):
    with pytest.raises(UserError, match=message):
      read_module(module)
  with pytest.raises(UserError, match="effective_window=3 should be"):
    swin.conversion(
      dict(
        module="SwinMLPBlock swin_mlp",
        dim=4,
        num_heads=2,
        input_resolution=[4, 4],
        window_size=4,
        effective_window=3,
      )
    )
  with pytest.raises(UserError, match="'windows'. Did you mean 'window_size'"):
    swin.conversion(dict(module="WindowAttention swin_v1", dim=4, num_heads=2, windows=[4, 4]))


def test_command_writes_a_run_that_evaluates_as_the_checkpoint(tmp_path, capsys):
  words = [
    "--config.model.depths=(1,1)",
    "--config.model.width=8",
    "--config.model.attention.num_heads=(1,2)",
  ]
  config = config_lib.load("configs/swin_nano.py:digits", words)
  spec = config.model.to_dict()
  model = make_model(spec, num_classes=10)
  init = lambda k: model.init(k, jnp.zeros((1, 8, 8, 1)), train=False)
  params = random_like(jax.eval_shape(init, jax.random.key(0))["params"])
  write_safetensors(tmp_path / "nano.safetensors", write_swin(params, spec, "timm"))
  arguments = [str(tmp_path / "nano.safetensors"), "--config=configs/swin_nano.py:digits", *words]
  assert main([*arguments, f"--out={tmp_path / 'run'}"]) == 0
  assert "in the names of timm code" in capsys.readouterr().out
  config = config_lib.load("configs/swin_nano.py:digits", words)
  fit_mesh(config)
  _, variables = restore_variables(tmp_path / "run", assemble(config))
  jax.tree.map(np.testing.assert_array_equal, variables["params"], params)
  assert main([*arguments, f"--out={tmp_path / 'run'}"]) == 2
  assert "has checkpoints already" in capsys.readouterr().err
  assert main(["nothing.npz", "--config=configs/convnn_k9.py:digits", f"--out={tmp_path / 'vit'}"]) == 2
  assert "Unknown model with a converter 'vit'" in capsys.readouterr().err
