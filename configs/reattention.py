r"""Re-attention (DeepViT) with 3 heads in ViT-Tiny, in the published training set-up.

    python train.py --config=configs/reattention.py           # CIFAR-10, 224/16, 150 epochs
    python train.py --config=configs/reattention.py:digits    # embedded data, about a minute on a laptop

The published DeepViT is another model (other patches, final norm); here only its attention, in the set-up of the
others.
Measured (2 CPU cores of a busy virtual machine, jax 0.10.2, 2026-11-21): digits as above, test top-1
95.28 %. CIFAR-10: not yet run.
"""

from configs import base


def get_config(data="cifar10"):
  config = base.get_config()
  config.model.attention = dict(
    name="reattention",
    num_heads=3,
    dropout_rate=0.1,
  )
  return base.with_data(config, data)
