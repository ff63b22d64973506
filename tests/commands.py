"""train.py, eval.py and modules as a user starts them: in a process of their own."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def start(script, *args, devices=1, **kwargs):
  env = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    "PYTHONUNBUFFERED": "1",
  }
  return subprocess.Popen(
    [sys.executable, *([str(ROOT / script)] if script.endswith(".py") else ["-m", script]), *map(str, args)],
    cwd=ROOT,
    env=env | kwargs.pop("env", {}),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **kwargs,
  )


def run(script, *args, expect=0, **kwargs):
  process = start(script, *args, **kwargs)
  out, err = process.communicate(timeout=300)
  assert process.returncode == expect, f"exit code {process.returncode}\n{out}\n{err}"
  return out, err


def result(workdir):
  return json.loads((workdir / "result.json").read_text())
