r"""SOT(Q) without softmax, in CCT-2/3x2.

    python train.py --config=configs/sot_q_no_softmax.py              # CIFAR-10 at 32 pixels, 30 epochs
    python train.py --config=configs/sot_q_no_softmax.py:digits       # embedded data, about a minute on a laptop

Published (CIFAR-10, best of 30 epochs on the test set, one run, regularization 0.1): top-1 74.96 %, the baseline
(configs/cct_2_3x2.py) 78.14 %. Without the softmax the rows of the weights sum to more than 1; the scale
1 / 8 stays.
Measured (2026-11-22, benchmarks/results/2026-11-22-cpu-sot.md): digits as above, test top-1 97.13 ± 0.58 %
after 25 epochs, mean and deviation of three seeds. CIFAR-10: not yet run.
"""

from configs import cct_2_3x2


def get_config(data="cifar10"):
  return cct_2_3x2.get_config(data, dict(name="sot", variant="query", normalization="none"))
