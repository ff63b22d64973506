"""Every registered attention learns the embedded digits from the command line; a new one is tested by being listed."""

import pathlib

import pytest
from commands import result, run

from convnn_jax.attention import ATTENTIONS

ROOT = pathlib.Path(__file__).parents[1]
# Attentions start from their config, of their name or of another; those without one exchange convnn for themselves.
CONFIGS = {"branching": "branching_attention"}
LEAST = 0.85  # test top-1 after 15 epochs


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ATTENTIONS))
def test_learns_digits(name, tmp_path):
  own = CONFIGS.get(name, name)
  if (ROOT / "configs" / f"{own}.py").is_file():
    words = [f"--config=configs/{own}.py:digits"]
  else:
    words = ["--config=configs/convnn_k9.py:digits", f"--config.model.attention.name={name}"]
  short = ["--config.num_epochs=15", "--config.optimizer.warmup_epochs=2.0"]
  run("train.py", *words, *short, f"--workdir={tmp_path / name}")
  assert result(tmp_path / name)["test_top1"] >= LEAST
