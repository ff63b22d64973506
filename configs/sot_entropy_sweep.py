r"""SOT(Q, K) in CCT-2/3x2 at 40 regularizations from 0.025 to 1, three seeds each: does the coefficient matter?

    python -m convnn_jax.report.sweep --config=configs/sot_entropy_sweep.py          # all; docs/reports.md
    python -m convnn_jax.report.sweep --config=configs/sot_entropy_sweep.py:digits --vmap=8    # 8 of them, two seeds
    python train.py --config=configs/sot_entropy_sweep.py                     # one point: CIFAR-10, regularization 0.1
    python train.py --config=configs/sot_entropy_sweep.py:digits --config.model.attention.regularization=0.8

`sweep()` lists all points. Published (CIFAR-10, best of 30 epochs on the test set, one run per value): top-1 75.36 % to
77.19 %, mean 76.24 %, standard deviation 0.36; the best, at 0.8, is what the maximum of 40 equal runs would be.
Measured (digits, 8 values, two seeds, --config.num_epochs=10, 2026-11-22): 95.1 to 95.3 %, softmax attention 96.8 %:
benchmarks/results/2026-11-22-cpu-sot-sweep.md. CIFAR-10: not yet run.
"""

from configs import sot_qk

REGULARIZATIONS = tuple(round(0.025 * i, 3) for i in range(1, 41))
SEEDS = (0, 1, 2)


def get_config(data="cifar10"):
  return sot_qk.get_config(data)


def sweep(data="cifar10"):
  """Overrides of every point, dotted field -> value; on digits every fifth value and two seeds."""
  values, seeds = (REGULARIZATIONS[::5], SEEDS[:2]) if data == "digits" else (REGULARIZATIONS, SEEDS)
  return [{"model.attention.regularization": value, "seed": seed} for value in values for seed in seeds]


def baseline(data="cifar10"):
  """Softmax attention in the same model, with every seed of the sweep."""
  return {"config": f"configs/cct_2_3x2.py:{data}"}
