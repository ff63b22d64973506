"""Trains what a config describes.

    python train.py --config=configs/convnn_k9.py:digits
    python train.py --config=configs/convnn_k9.py --workdir=runs/mine --config.seed=1

The same command goes on after an interruption. --help lists the flags, configs/base.py all fields.
"""

import sys

from convnn_jax import cli

if __name__ == "__main__":
  sys.exit(cli.run(cli.train, sys.argv[1:]))
