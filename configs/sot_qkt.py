r"""SOT(Q, K^T): queries transported to the channels of the keys, with softmax, in CCT-2/3x2.

    python train.py --config=configs/sot_qkt.py              # CIFAR-10 at 32 pixels, 30 epochs
    python train.py --config=configs/sot_qkt.py:digits       # embedded data, about a minute on a laptop

Published (CIFAR-10, best of 30 epochs on the test set, one run, regularization 0.1): top-1 76.76 %, the baseline
(configs/cct_2_3x2.py) 78.14 %. Before the softmax all values lie between 0 and 1 / 8, so every weight is within
about 13 % of 1 / n: the attention is nearly mean pooling.
Measured (2026-11-22, benchmarks/results/2026-11-22-cpu-sot.md): digits as above, test top-1 96.94 ± 0.28 %
after 25 epochs, mean and deviation of three seeds. CIFAR-10: not yet run.
"""

from configs import cct_2_3x2


def get_config(data="cifar10"):
  config = cct_2_3x2.get_config(data, dict(name="sot", variant="query_key_transposed"))
  if data != "digits":  # there 16 tokens, 16 channels
    config.data.image_size = 32  # 8 x 8 tokens, as many as a head has channels
  return config
