r"""DeepViT, small: a ViT with re-attention on four patches, in the attention study's set-up.

    python train.py --config=configs/deepvit.py           # CIFAR-10 at 32 pixels, 15 epochs
    python train.py --config=configs/deepvit.py:digits    # embedded data, about a minute on a laptop

Published (best of 15 epochs): 97.6 % on MNIST, 48.03 % on CIFAR-10, 17.89 % on CIFAR-100. Source: holestine/Attention.
Measured (2 busy CPU cores, jax 0.10.2, 2026-11-21): digits as above, test top-1 92.78 % after 25 epochs,
87 s of training. MNIST and CIFAR: not yet run.
"""

from configs import attention_study


def get_config(data="cifar10"):
  return attention_study.get_config(f"deepvit,small,{data}")
