r"""The variants of self-optimal transport in CCT-2/3x2 beside plain attention, three seeds each.

    python train.py --config=configs/sot_study.py                  # the baseline: configs/cct_2_3x2.py
    python -m convnn_jax.report.sweep --config=configs/sot_study.py:digits

`sweep()` lists the runs: SOT(Q) and SOT(Q, K) with and without softmax, and SOT(Q, K^T). Published (CIFAR-10, best of
30 epochs on the test set, one run each): see the configs of the variants. Measured: docs/sot.md.

On Fashion-MNIST SOT(Q, K^T), which needs as many tokens as channels of a head, has 32 pixels and the others the data's
own 28: compare them at --config.data.image_size=32.
"""

from configs import cct_2_3x2

VARIANTS = ("sot_q", "sot_q_no_softmax", "sot_qk", "sot_qk_no_softmax", "sot_qkt")
SEEDS = (0, 1, 2)


def get_config(data="cifar10"):
  return cct_2_3x2.get_config(data)


def sweep(data="cifar10"):
  """Overrides of every run: another config file, and the seed."""
  return [{"config": f"configs/{name}.py:{data}", "seed": seed} for name in VARIANTS for seed in SEEDS]


def baseline():
  """Plain attention."""
  return {}
