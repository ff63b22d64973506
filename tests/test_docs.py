"""The code in docs/ does what the text says."""

import os
import pathlib
import re
import resource
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_the_transformer_learns_to_reverse_a_sequence(tmp_path):
  (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/transformer.md").read_text(), re.S)
  script = tmp_path / "reverse.py"
  script.write_text(block)
  env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
  before = _seconds_of_children()
  done = subprocess.run(
    [sys.executable, script], cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=600
  )
  assert done.returncode == 0, done.stderr
  assert float(re.search(r"symbols right ([\d.]+) %", done.stdout)[1]) > 99
  # A minute of one core: time on the clock would depend on what else runs here.
  assert _seconds_of_children() - before < 60


def _seconds_of_children():
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime
