r"""A ViT, small, on the feature map of two convolutions, in the attention study's set-up.

    python train.py --config=configs/hybrid.py           # CIFAR-10 at 32 pixels, 15 epochs
    python train.py --config=configs/hybrid.py:digits    # embedded data, about a minute on a laptop

Published (best of 15 epochs): 99.2 % on MNIST, 69.52 % on CIFAR-10, 34.97 % on CIFAR-100. Source: holestine/Attention.
Measured (2 busy CPU cores, jax 0.10.2, 2026-11-21): digits as above, test top-1 98.61 % after 25 epochs,
28 s of training. MNIST and CIFAR: not yet run.
"""

from configs import attention_study


def get_config(data="cifar10"):
  return attention_study.get_config(f"hybrid,small,{data}")
