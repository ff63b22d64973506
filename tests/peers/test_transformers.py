"""Swin V1, V2 and ViT of `transformers`, with random weights, through the converters: equal logits, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax.convert.read import read_state
from convnn_jax.convert.swin_checkpoint import read_swin, write_swin
from convnn_jax.convert.vit_checkpoint import read_vit, write_vit
from convnn_jax.models import make_model
from convnn_jax.ops.resize import resize_table

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch", reason="needs requirements-peers.txt")
transformers = pytest.importorskip("transformers", reason="needs requirements-peers.txt")

SIZES = dict(depths=[2, 2], num_heads=[2, 4], window_size=4, patch_size=2, embed_dim=16, mlp_ratio=2.0)


def peer(version, image):
  torch.manual_seed(0)
  kinds = {
    1: ("SwinConfig", "SwinForImageClassification"),
    2: ("Swinv2Config", "Swinv2ForImageClassification"),
  }
  config, model = (getattr(transformers, name) for name in kinds[version])
  model = model(config(image_size=image, num_labels=5, **SIZES)).eval()
  with torch.no_grad():
    for name, leaf in model.named_parameters():  # away from zeros and ones
      leaf += (0.02 if "logit_scale" in name else 0.2) * torch.randn_like(leaf)
  return model


def spec(version):
  attention = dict(name="window", num_heads=(2, 4))
  if version == 2:
    attention |= dict(similarity="cosine", relative_bias="mlp")
  placement = {1: "pre", 2: "post"}[version]
  sizes = dict(patch_size=2, width=16, depths=(2, 2), window_size=(4, 4), mlp_ratio=2.0)
  return dict(name="swin", attention=attention, norm_placement=placement, **sizes)


@pytest.mark.parametrize("version", [1, 2])
def test_logits_equal(version):
  reference = peer(version, 16)
  state = {name: leaf.numpy() for name, leaf in reference.state_dict().items()}
  ours = spec(version)
  model = make_model(ours, num_classes=5)
  images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
  shapes = jax.eval_shape(lambda k: model.init(k, images, train=False), jax.random.key(0))["params"]
  params, lines = read_swin(state, ours, (16, 16), shapes)
  assert len(lines) == 1
  with torch.no_grad():
    expected = reference(torch.tensor(images).permute(0, 3, 1, 2)).logits.numpy()
  logits = jax.jit(lambda p, x: model.apply({"params": p}, x, train=False))(params, jnp.asarray(images))
  assert np.std(expected) > 0.1
  np.testing.assert_allclose(logits, expected, atol=2e-5 * max(1, np.abs(expected).max()))

  back = write_swin(params, ours, "huggingface")
  again, _ = read_swin(back, ours, (16, 16), shapes)
  jax.tree.map(np.testing.assert_array_equal, again, params)


VIT = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, patch_size=4)


def vit_peer(**changes):
  torch.manual_seed(0)
  config = transformers.ViTConfig(image_size=16, num_labels=5, **{**VIT, **changes})
  model = transformers.ViTForImageClassification(config).eval()
  with torch.no_grad():
    for leaf in model.parameters():  # away from zeros and ones
      leaf += 0.2 * torch.randn_like(leaf)
  return model


def vit_spec(**changes):
  attention = dict(name="softmax", num_heads=3, qkv_bias=True, out_bias=True)
  spec = dict(name="vit", patch_size=4, patch_norm="none", width=24, depth=3, mlp_dim=40, attention=attention)
  spec |= dict(position_embedding="learned", pooling="cls", final_norm="layer_norm", norm_epsilon=1e-12)
  return spec | changes


def vit_shapes(spec, images):
  model = make_model(spec, num_classes=5)
  return jax.eval_shape(lambda k: model.init(k, images, train=False), jax.random.key(0))["params"]


def vit_logits(spec, params, images):
  model = make_model(spec, num_classes=5)
  return jax.jit(lambda p, x: model.apply({"params": p}, x, train=False))(params, jnp.asarray(images))


@pytest.mark.parametrize(("theirs", "ours"), [("gelu", "gelu"), ("gelu_pytorch_tanh", "gelu_tanh")])
def test_vit_logits_equal(theirs, ours, tmp_path):
  """Read from the file that `save_pretrained` writes, in the names of files."""
  reference = vit_peer(hidden_act=theirs)
  reference.save_pretrained(tmp_path)
  state, spec = read_state(str(tmp_path / "model.safetensors")), vit_spec(activation=ours)
  images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
  shapes = vit_shapes(spec, images)
  params, lines = read_vit(state, spec, (16, 16), shapes)
  assert lines[0] == f"read {len(state)} arrays in the names of huggingface code"
  with torch.no_grad():
    expected = reference(torch.tensor(images).permute(0, 3, 1, 2)).logits.numpy()
  assert np.std(expected) > 0.1
  logits = vit_logits(spec, params, images)
  np.testing.assert_allclose(logits, expected, atol=2e-5 * max(1, np.abs(expected).max()))
  in_memory = {name: leaf.numpy() for name, leaf in reference.state_dict().items()}
  again, _ = read_vit(in_memory, spec, (16, 16), shapes)
  jax.tree.map(np.testing.assert_array_equal, again, params)

  written = write_vit(params, spec, "huggingface")
  assert written.keys() == state.keys()
  torch.save({name: torch.tensor(np.array(a)) for name, a in written.items()}, tmp_path / "pytorch_model.bin")
  (tmp_path / "model.safetensors").unlink()
  back = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
  with torch.no_grad():
    np.testing.assert_array_equal(back(torch.tensor(images).permute(0, 3, 1, 2)).logits.numpy(), expected)


@pytest.mark.parametrize(
  ("old", "new"), [((4, 4), (7, 7)), ((7, 7), (4, 4)), ((3, 3), (5, 8)), ((2, 2), (9, 3))]
)
def test_tables_are_resized_as_by_torch(old, new):
  table = np.random.default_rng(0).normal(size=(old[0] * old[1], 6)).astype(np.float32)
  grid = torch.tensor(table).reshape(1, *old, 6).permute(0, 3, 1, 2)
  theirs = torch.nn.functional.interpolate(grid, size=new, mode="bicubic", align_corners=False)
  theirs = theirs.permute(0, 2, 3, 1).reshape(-1, 6).numpy()
  np.testing.assert_allclose(resize_table(table, old, new), theirs, atol=2e-6)


def test_vit_at_another_image_size():
  """Against transformers' own interpolation of positions, from a grid of 4 x 4 to one of 7 x 7."""
  reference, spec = vit_peer(), vit_spec()
  images = np.random.default_rng(0).normal(size=(2, 28, 28, 3)).astype(np.float32)
  state = {name: leaf.numpy() for name, leaf in reference.state_dict().items()}
  params, lines = read_vit(state, spec, (28, 28), vit_shapes(spec, images))
  assert "position_embedding/table: resized from 4 x 4 to 7 x 7 (bicubic)" in lines
  with torch.no_grad():
    pixels = torch.tensor(images).permute(0, 3, 1, 2)
    expected = reference(pixels, interpolate_pos_encoding=True).logits.numpy()
  logits = vit_logits(spec, params, images)
  np.testing.assert_allclose(logits, expected, atol=2e-5 * max(1, np.abs(expected).max()))
