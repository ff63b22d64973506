"""A small ViT and parameters for it."""

import jax
import jax.numpy as jnp
import numpy as np

from convnn_jax.models import make_model

SPEC = dict(
  name="vit", patch_size=4, patch_norm="none", width=8, depth=2, mlp_dim=12, final_norm="layer_norm"
)
SPEC |= dict(position_embedding="learned", pooling="cls", norm_epsilon=1e-6)
SPEC |= dict(attention=dict(name="softmax", num_heads=2, qkv_bias=True, out_bias=True))

HEADS = "the file does not tell the number of heads; the config has 2"


def shapes(spec=SPEC, side=8, classes=3):
  model = make_model(spec, num_classes=classes)
  init = lambda k: model.init(k, jnp.zeros((1, side, side, 3)), train=False)
  return jax.eval_shape(init, jax.random.key(0))["params"]


def random_like(tree):
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)
