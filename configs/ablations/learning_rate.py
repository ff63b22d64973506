r"""Learning rate of softmax attention in ViT-Tiny, three seeds each: how much of a difference is chance.

    python -m convnn_jax.report.sweep --config=configs/ablations/learning_rate.py:digits
    python -m convnn_jax.report.sweep --config=configs/ablations/learning_rate.py:digits --vmap=15    # one program
    python train.py --config=configs/ablations/learning_rate.py:digits                                # a single run

Published: none. Measured: not yet run.
"""

from configs import base


def get_config(data="cifar10"):
  config = base.get_config()
  config.model.attention = dict(name="softmax", num_heads=3, dropout_rate=0.1)
  return base.with_data(config, data)


def sweep():
  for learning_rate in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2):
    for seed in range(3):
      yield {"optimizer.learning_rate": learning_rate, "seed": seed}
