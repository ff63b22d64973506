"""Reference cases: outputs and gradients of the published code, loaded through convert/.

    pytest tests/test_golden.py --golden-dir=DIR

runs every .npz below DIR. Each case states its module and options; one that is unknown here fails. So do the tables
named in golden_tables.py (.json).
"""

import contextlib
import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from fast_jit import fast_jit
from golden_loaders import load
from golden_tables import check_of

from convnn_jax.convert.options import NotOffered
from convnn_jax.convert.rules import to_source

# Largest difference over max(1, largest reference value): outputs, gradients. Gradients of whole blocks and
# models are stored in float32, whose rounding (6e-8) is far inside.
TOLERANCES = {"float64": (1e-6, 5e-6), "float32": (2e-5, 2e-4)}


def pytest_generate_tests(metafunc):
  if "case" in metafunc.fixturenames:
    root = Path(metafunc.config.getoption("--golden-dir")).resolve()
    cases = sorted(root.rglob("*.npz"))
    # An empty list would be a skip: a mistyped folder must fail.
    ids = [f"{path.parent.name}/{path.stem}" for path in cases] or [f"no .npz below {root}"]
    metafunc.parametrize("case", cases or [root], ids=ids)
  if "table" in metafunc.fixturenames:
    root = Path(metafunc.config.getoption("--golden-dir")).resolve()
    tables = sorted(path for path in root.rglob("*.json") if check_of(path))
    metafunc.parametrize("table", tables, ids=[f"{path.parent.name}/{path.stem}" for path in tables])


@contextlib.contextmanager
def _precision(dtype):
  with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
    yield


def _difference(ours, reference):
  assert ours.shape == reference.shape, f"shape {ours.shape}, reference {reference.shape}"
  assert np.all(np.isfinite(ours)), "not finite"
  return float(np.max(np.abs(ours - reference), initial=0) / max(1, np.max(np.abs(reference), initial=0)))


def _output_and_gradients(run, cotangent, *arguments):
  """Gradients are None for cases without a cotangent."""
  output, pullback = jax.vjp(run, *arguments)
  return output, None if cotangent is None else pullback(cotangent)


def _compare(path, dtype):
  """(worst difference of the output, of the gradients, names of gradients that only one side has)."""
  with np.load(path) as file:
    config, arrays = json.loads(str(file["config"])), {name: file[name] for name in file if name != "config"}
  floats = {name: a.astype(dtype) if np.issubdtype(a.dtype, np.floating) else a for name, a in arrays.items()}
  inputs = {name: floats[name] for name in ("x", "x2", "x3") if name in arrays}
  with _precision(dtype):
    loaded = load(path, config, floats)
    run = fast_jit(functools.partial(_output_and_gradients, loaded.run))
    output, gradients = run(floats.get("ct"), loaded.params, *inputs.values())
  outputs = loaded.named(output)
  assert all(array.dtype == dtype for array in outputs.values())
  worst = max(_difference(np.asarray(array, np.float64), arrays[name]) for name, array in outputs.items())
  if gradients is None:
    return worst, 0.0, set()

  to_params, *to_inputs = gradients
  gradients = {f"param:{name}": g for name, g in to_source(to_params, loaded.rules).items()}
  stored = {name.removeprefix("grad:"): a for name, a in arrays.items() if name.startswith("grad:")}
  if not stored:  # outputs only
    return worst, 0.0, set()
  given = zip(inputs, to_inputs, strict=True)
  wanted = lambda name: name in stored or (loaded.input_gradients and name not in loaded.constants)
  gradients |= {name: gradient for name, gradient in given if wanted(name)}
  both = gradients.keys() & stored.keys()
  differences = [_difference(np.asarray(gradients[name], np.float64), stored[name]) for name in both]
  # A parameter without a part in the output has a gradient of zeros on one side and none on the other.
  alone = {name: (gradients | stored)[name] for name in gradients.keys() ^ stored.keys()}
  return worst, max(differences, default=0.0), {name for name, gradient in alone.items() if np.any(gradient)}


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_case(case, dtype, record_property):
  record = lambda text: record_property("reference case", (case.parent.name, case.stem, dtype, text))
  try:
    worst, worst_gradient, unmatched = _compare(case, dtype)
  except NotOffered as reason:
    record(f"left out: {reason}")
    pytest.skip(str(reason))
  except Exception as error:
    record(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    raise
  names = f" gradients on one side only: {sorted(unmatched)}" if unmatched else ""
  record(f"dy {worst:.1e} dgrad {worst_gradient:.1e}{names}")
  assert not unmatched, names
  assert worst <= TOLERANCES[dtype][0]
  assert worst_gradient <= TOLERANCES[dtype][1]


def test_table(table, record_property):
  record = lambda text: record_property("reference case", (table.parent.name, table.stem, "json", text))
  try:
    check_of(table)(json.loads(table.read_text()))
  except Exception as error:
    record(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
    raise
  record("equal")
