"""Swin checkpoints: every published name in every notation, resizing, heads, files, mistakes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_tables import swin_shapes

from convnn_jax.convert import swin
from convnn_jax.convert.__main__ import main
from convnn_jax.convert.read import read_state, write_safetensors
from convnn_jax.convert.swin_checkpoint import read_swin, write_swin
from convnn_jax.convert.swin_names import from_published
from convnn_jax.convert.swin_words import FLAVOURS, read_module
from convnn_jax.errors import UserError
from convnn_jax.models import make_model
from convnn_jax.ops.resize import resize_table
from convnn_jax.training import config as config_lib
from convnn_jax.training.assemble import assemble
from convnn_jax.training.restore import fit_mesh, restore_variables

SPEC = dict(
  name="swin", patch_size=2, width=8, depths=(2, 1), window_size=(4, 4), position_embedding="learned"
)
SPEC |= dict(attention=dict(name="window", num_heads=(2, 4)))


def random_like(tree):
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)


@pytest.mark.parametrize("source", ["published", "timm", "huggingface"])
def test_there_and_back_through_a_file(source, tmp_path):
  params = random_like(swin_shapes(SPEC))
  write_safetensors(tmp_path / "swin.safetensors", write_swin(params, SPEC, source))
  read, lines = read_swin(read_state(str(tmp_path / "swin.safetensors")), SPEC, (16, 16), swin_shapes(SPEC))
  jax.tree.map(np.testing.assert_array_equal, read, params)
  untold = ["the file does not tell model.attention.qk_residual; the config has False"]
  assert lines[1:] == (untold if source == "published" else [])
  assert source in lines[0]


def test_tables_positions_and_head_follow_the_model():
  params = random_like(swin_shapes(SPEC))
  state = write_swin(params, SPEC)
  larger = SPEC | dict(window_size=(6, 6))
  read, lines = read_swin(state, larger, (24, 24), swin_shapes(larger, side=24, classes=5))
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
  state = write_swin(random_like(swin_shapes(SPEC)), SPEC)
  state["layers.0.blocks.0.extra.weight"] = np.zeros(3, np.float32)
  del state["layers.1.blocks.0.norm1.bias"]
  with pytest.raises(
    UserError, match=r"not known here: layers.0.blocks.0.extra.weight.*without a source: stage_1/"
  ):
    read_swin(state, SPEC, (16, 16), swin_shapes(SPEC))
  with pytest.raises(UserError, match="not attention.name='softmax'"):
    write_swin({}, SPEC | dict(attention=dict(name="softmax")))
  with pytest.raises(UserError, match="Did you mean 'timm'"):
    from_published({}, "tim")


V2 = SPEC | dict(norm_placement="post", width=16, patch_size=4, depths=(1, 1, 1), mlp_ratio=2.0)
V2 |= dict(attention=dict(name="window", num_heads=2, similarity="cosine", relative_bias="mlp"))


@pytest.mark.parametrize(
  ("theirs", "ours", "words"),
  [
    (
      V2,
      SPEC,
      "width=16 patch_size=4 depths=1,1,1 attention.similarity=cosine attention.relative_bias=mlp norm_placement=post"
      " mlp_ratio=2 attention.num_heads=2,2,2",
    ),
    (
      SPEC,
      V2,
      "width=8 patch_size=2 depths=2,1 attention.similarity=dot attention.relative_bias=table norm_placement=pre"
      " mlp_ratio=4 attention.num_heads=2,4",
    ),
  ],
  ids=["V2 into V1", "V1 into V2"],
)
def test_a_model_of_another_size_is_told_with_what_fits(theirs, ours, words):
  expected = "needs " + " ".join(f"--config.model.{word}" for word in words.split()) + "."
  params = random_like(swin_shapes(theirs))
  for source in ("published", "timm", "huggingface"):
    with pytest.raises(UserError, match=re.escape(expected)):
      read_swin(write_swin(params, theirs, source), ours, (16, 16), {})
  flags = [f"--config.model.{word}" for word in words.split()]
  fitting = config_lib.load("configs/swin_nano.py:digits", flags).model.to_dict() | dict(
    position_embedding="learned"
  )
  read, _ = read_swin(write_swin(params, theirs), fitting, (16, 16), swin_shapes(theirs))
  jax.tree.map(np.testing.assert_array_equal, read, params)


def test_files_of_other_models_are_told():
  mlp = SPEC | dict(attention=dict(name="spatial_mlp", num_heads=(2, 4)), shift="pad")
  state = write_swin(random_like(swin_shapes(mlp)), mlp)
  with pytest.raises(UserError, match="is a SwinMLP, .* 'window'; start from configs/swin_mlp_t.py"):
    read_swin(state, SPEC, (16, 16), {})
  with pytest.raises(UserError, match="needs --config.model.attention.num_heads=2,4"):
    read_swin(state, mlp | dict(attention=dict(name="spatial_mlp", num_heads=2)), (16, 16), {})
  patches = {"patch_embed.proj.weight": np.zeros((8, 3, 4, 4))}
  for names in (
    patches | {"blocks.0.norm1.bias": np.zeros(8)},
    {"vit.embeddings.patch_embeddings.projection.weight": np.zeros(1), "vit.encoder.layer.0.x": np.zeros(1)},
  ):
    with pytest.raises(UserError, match="These are not the names of a Swin Transformer"):
      read_swin(names, SPEC, (16, 16), {})
  with pytest.raises(UserError, match=r"weight has shape \(8,\), but a kernel"):
    read_swin(
      {"patch_embed.proj.weight": np.zeros(8), "layers.0.blocks.0.norm1.bias": np.zeros(8)},
      SPEC,
      (16, 16),
      {},
    )


def test_the_residual_on_queries_is_in_no_file():
  residual = SPEC | dict(attention=SPEC["attention"] | dict(qk_residual=True))
  params = random_like(swin_shapes(SPEC))
  for source in ("timm", "huggingface"):
    with pytest.raises(
      UserError, match=f"of {source} code do not hold a model with model.attention.qk_residual=True"
    ):
      write_swin(params, residual, source)
    _, lines = read_swin(write_swin(params, SPEC, source), residual, (16, 16), swin_shapes(SPEC))
    assert lines[1:] == [
      f"{source} code has no model.attention.qk_residual; the config has True: logits differ"
    ]
  assert write_swin(
    params, SPEC | dict(attention=SPEC["attention"] | dict(qk_residual=(False, False))), "timm"
  )
  _, lines = read_swin(write_swin(params, residual), residual, (16, 16), swin_shapes(SPEC))
  assert lines[1:] == ["the file does not tell model.attention.qk_residual; the config has True"]


def test_modules_are_read_in_full():
  assert read_module("SwinMLP swin_mlp") == ("SwinMLP", FLAVOURS["swin_mlp"])
  full = "SwinTransformer fork_v1 (QK residual (x), commit 1); weight table all zero = QK residual only, no Pre MLP (2)"
  assert read_module(full) == ("SwinTransformer", FLAVOURS["fork_v1"])
  for remark in ("+ Pre MLP", "+ Pre MLP per stage"):
    stage = f"SwinTransformerV2 fork_v2 final (raw bias) {remark}, single stage of depth 0"
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


def test_sides_of_a_square_may_be_one_number():
  block = dict(module="SwinMLPBlock swin_mlp", dim=4, num_heads=2, window_size=4, shift_size=2)
  assert swin.conversion(block | dict(input_resolution=8)) == swin.conversion(
    block | dict(input_resolution=[8, 8])
  )
  with pytest.raises(UserError, match="effective_shift=2 should be"):
    swin.conversion(block | dict(input_resolution=4, effective_shift=2))


def test_sizes_of_resized_tables_are_labels():
  module = "absolute position embedding bicubic resize, torch interpolate"
  assert swin.conversion(dict(module=module, old_length=16, new_length=36)).kind == "resize"
  with pytest.raises(UserError, match="'length'"):
    swin.conversion(dict(module=module, length=16))


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
  main([*arguments, f"--out={tmp_path / 'run'}"])
  assert "in the names of timm code" in capsys.readouterr().out
  config = config_lib.load("configs/swin_nano.py:digits", words)
  fit_mesh(config)
  _, variables = restore_variables(tmp_path / "run", assemble(config))
  jax.tree.map(np.testing.assert_array_equal, variables["params"], params)
  with pytest.raises(UserError, match="has checkpoints already"):
    main([*arguments, f"--out={tmp_path / 'run'}"])
  with pytest.raises(UserError, match="Unknown model with a converter 'cnn'"):
    main(["nothing.npz", "--config=configs/cnn.py:digits", f"--out={tmp_path / 'cnn'}"])
