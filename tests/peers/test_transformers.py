"""Swin V1 and V2 of `transformers`, with random weights, through the converter: equal logits, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax.convert.swin_checkpoint import read_swin, write_swin
from convnn_jax.models import make_model

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
