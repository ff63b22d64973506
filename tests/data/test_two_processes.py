"""Two real processes with four devices each give the batches of one process with eight."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

PROGRAM = """
import json, sys
import jax, numpy as np
from configs import base
port, count, rank, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if count > 1:
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(f"localhost:{port}", num_processes=count, process_id=rank)
from convnn_jax import data

mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
results = {}
for name in ("digits", "folder"):
  config = base.get_config().data
  config.update(name=name, data_dir=folder, image_size=8, crop_padding=1, normalization="half")
  config.augment = ("crop", "flip")
  dataset = data.open_dataset(config)
  on_device = data.resident(dataset.train, sharding)
  decoded = []
  if dataset.train.kind == "stream":
    load = dataset.train.load
    counted = lambda indices, draws=None: decoded.append(len(indices)) or load(indices, draws)
    object.__setattr__(dataset.train, "load", counted)

  def step(on_device, batch, key):
    images, labels = data.fetch(on_device, batch)
    return data.augment(images, key, config, dataset.info).mean(axis=(1, 2, 3)), labels

  step = jax.jit(step, out_shardings=everywhere)
  batches = data.train_batches(dataset.train, seed=3, batch_size=16, start_step=1, sharding=sharding)
  rows = []
  for i in range(3):
    means, labels = jax.device_get(step(on_device, next(batches), jax.random.key(i)))
    rows.append([means.tolist(), labels.tolist()])
  total = 0.0
  for batch in data.eval_batches(dataset.test, batch_size=16, sharding=sharding):
    total += float(jax.jit(lambda m: m.sum(), out_shardings=everywhere)(batch["mask"]))
  results[name] = dict(rows=rows, total=total, decoded=decoded[:3])
print("RESULT" + json.dumps(results), flush=True)
"""


def run(count, folder):
  """The results of `count` processes with eight devices altogether."""
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  flags = f"--xla_force_host_platform_device_count={8 // count}"
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", PROGRAM, str(port), str(count), str(rank), str(folder)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for rank in range(count)
  ]
  outputs = [process.communicate(timeout=300) for process in processes]
  for process, (_, err) in zip(processes, outputs, strict=True):
    assert process.returncode == 0, err[-2000:]
  return [json.loads(out.partition("RESULT")[2].splitlines()[0]) for out, _ in outputs]  # Gloo may print, too


@pytest.mark.slow
def test_two_processes_give_the_batches_of_one(tmp_path):
  rng = np.random.default_rng(0)
  for split, n in (("train", 40), ("test", 21)):
    for i in range(n):
      place = tmp_path / split / "ab"[i % 2]
      place.mkdir(parents=True, exist_ok=True)
      Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(place / f"{i:03d}.png")
  (one,) = run(1, tmp_path)
  two = run(2, tmp_path)
  for name, num_test in (("digits", 360), ("folder", 21)):
    for process in two:
      for (means, labels), (expected_means, expected_labels) in zip(
        process[name]["rows"], one[name]["rows"], strict=True
      ):
        assert labels == expected_labels
        np.testing.assert_allclose(means, expected_means, atol=1e-6)
      assert process[name]["total"] == one[name]["total"] == num_test
  assert one["folder"]["decoded"] == [16, 16, 16]
  assert [process["folder"]["decoded"] for process in two] == [[8, 8, 8]] * 2  # half the work each
