"""The PyTorch models of the benchmarks compute what ours compute: same parameters, same logits."""

import jax
import numpy as np
import pytest

from convnn_jax.convert import convnn
from convnn_jax.convert.rules import to_flax
from convnn_jax.models import make_model

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch", reason="needs requirements-peers.txt")

OPTIONS = dict(module="ViT", patch_size=4, num_layers=2, d_hidden=24, d_mlp=48, num_heads=3)
LAYERS = {"softmax": dict(layer="Attention"), "convnn": dict(layer="ConvNNAttention", K=5)}


@pytest.mark.parametrize("name", LAYERS)
def test_literal_vit_gives_our_logits(name):
  from benchmarks.peers.vit import ViT

  torch.manual_seed(0)
  theirs = ViT(name, image=16, patch=4, k=5, width=24, depth=2, mlp=48).eval()
  for block in theirs.transformer_encoder:
    if name == "convnn":
      torch.nn.init.normal_(block.attention.conv.weight)
  images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
  made = convnn.conversion({**OPTIONS, **LAYERS[name]})
  ours = make_model(made.spec, num_classes=10)
  shapes = jax.eval_shape(lambda: ours.init(jax.random.key(0), images, train=False))["params"]
  state = {key: value.numpy() for key, value in theirs.state_dict().items()}
  params = to_flax(state, made.rules, shapes, ignore=made.ignore)
  with torch.no_grad():
    expected = theirs(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
  np.testing.assert_allclose(ours.apply({"params": params}, images, train=False), expected, atol=1e-4)
