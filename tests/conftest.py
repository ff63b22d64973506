"""Strict settings for every test: eight simulated devices, no silent rank promotion."""

import os
from pathlib import Path

# Before jax is imported anywhere: tests of sharding need several devices on one CPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# One line for every reference case, filled by tests/test_golden.py.
GOLDEN_LINES = pytest.StashKey[list]()


def pytest_addoption(parser):
  parser.addoption(
    "--golden-dir",
    default=str(Path(__file__).parent / "golden"),
    help="folder of reference cases (.npz, searched recursively) for tests/test_golden.py",
  )


def pytest_configure(config):
  config.stash[GOLDEN_LINES] = []


def pytest_terminal_summary(terminalreporter, config):
  if lines := config.stash[GOLDEN_LINES]:
    terminalreporter.section("reference cases")
    for line in sorted(lines):
      terminalreporter.write_line(line)


@pytest.fixture
def golden_lines(request):
  """The list of lines printed at the end, whatever the output capture."""
  return request.config.stash[GOLDEN_LINES]
