"""Evaluates a run's checkpoint on the test set; the last line printed is JSON.

python eval.py --workdir=runs/convnn_k9-digits
python eval.py --workdir=runs/convnn_k9-digits --step=best
"""

import sys

from convnn_jax import cli

if __name__ == "__main__":
  sys.exit(cli.run(cli.evaluate, sys.argv[1:]))
