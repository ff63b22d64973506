"""The benchmark beside PyTorch: what it prints, and what it says where PyTorch is missing."""

import importlib.util
import json
import platform
import sys

import pytest

from benchmarks import swin_step
from convnn_jax.errors import UserError


def test_without_pytorch_one_line_says_what_to_do(monkeypatch, tmp_path):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="has no torch and no transformers.*requirements-peers.txt"):
    swin_step.main([])
  with pytest.raises(UserError, match="does not run"):
    swin_step.check_peer(str(tmp_path / "python"))
  with pytest.raises(UserError, match="at least 1"):
    swin_step.main(["--batch=0"])


@pytest.mark.peers
def test_both_take_steps_and_are_compared(capsys):
  pytest.importorskip("torch", reason="needs requirements-peers.txt")
  pytest.importorskip("transformers", reason="needs requirements-peers.txt")
  swin_step.main(["--preset=swin_nano", "--batch=2", "--rounds=3", f"--peer_python={sys.executable}"])
  *table, line = capsys.readouterr().out.splitlines()
  names = ["ours", "pytorch", "pytorch, memory kept"]
  assert [row.partition("  ")[0] for row in table[1:4]] == names
  figures = json.loads(line)
  samples = figures["samples_ms"]
  assert [len(samples[name]) for name in names] == [3, 3, 3]
  middle = {name: sorted(values)[1] for name, values in samples.items()}
  assert 0 <= figures["others"] <= 1
  assert min(sum(figures["cpu_ms"].values(), [])) > 0
  for name in names[1:]:
    assert figures["ratios"][name]["medians"] == pytest.approx(middle["ours"] / middle[name], rel=0.05)
    assert figures["num_params"] == figures["about"][name]["num_params"]
  assert [figures["about"][name]["memory_kept"] for name in names[1:]] == [
    False,
    platform.libc_ver()[0] == "glibc",
  ]
