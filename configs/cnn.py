r"""The CNN of the attention study: two convolutions and a hidden layer, in the study's set-up.

    python train.py --config=configs/cnn.py           # CIFAR-10 at 32 pixels, 15 epochs
    python train.py --config=configs/cnn.py:digits    # embedded data, about a minute on a laptop

Published (best of 15 epochs, two runs): 97.05 and 98.70 % on MNIST, 57.78 and 57.39 % on CIFAR-10, 22.05 and 22.38 % on
CIFAR-100. Source: holestine/Attention.
Measured (2 busy CPU cores, jax 0.10.2, 2026-11-21): digits as above, test top-1 98.89 % after 25 epochs,
9 s of training. MNIST and CIFAR: not yet run.
"""

from configs import attention_study


def get_config(data="cifar10"):
  return attention_study.get_config(f"cnn,small,{data}")
