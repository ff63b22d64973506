r"""CCT-2/3x2 with plain attention for 30 epochs: the baseline of the study of self-optimal transport in attention.

    python train.py --config=configs/cct_2_3x2.py              # CIFAR-10 at 32 pixels, 30 epochs
    python train.py --config=configs/cct_2_3x2.py:digits       # embedded data, about a minute on a laptop

Two blocks, two heads, 64 tokens, 283,723 parameters. Published (CIFAR-10, best of 30 epochs on the test set, one run):
top-1 78.14 %; after 200 epochs of the same recipe 89.17 %. Runs of the study differ by about 0.36 points (standard
deviation of its 40 runs), so differences below a point between its variants mean nothing.
Measured (2026-11-22, benchmarks/results/2026-11-22-cpu-sot.md): digits as above, test top-1 98.70 ± 0.42 %
after 25 epochs, mean and deviation of three seeds. CIFAR-10: not yet run.
"""

from configs import base, recipes
from convnn_jax.models import presets


def get_config(data="cifar10", attention=None):
  """The config; `attention` takes the place of the softmax attention."""
  config = base.get_config()
  recipes.recipe_a(config)
  config.num_epochs = 30
  config.model = presets.model("cct_2_3x2_32")
  if attention is not None:
    config.model.attention = {**SHARED, **attention}
  return base.with_data(config, data, image_size=32)


# What every attention here has in common with the plain one.
SHARED = dict(num_heads=2, dropout_rate=0.1, out_bias=True, linear_init="normal")
