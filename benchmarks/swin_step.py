"""One optimiser step of Swin-T beside the same model in PyTorch (transformers, eager).

    pip install -r requirements-peers.txt
    python -m benchmarks.swin_step                         # 224 pixels, batch 8, float32
    python -m benchmarks.swin_step --rounds=5 --batch=4 --peer_python=OTHER_VENV/bin/python

Forward, backward and AdamW on random images that lie ready, drop path on, random weights. All steps return the loss.
PyTorch runs as it is installed, and once more with the memory settings that our programs ask of the C library
(convnn_jax/host_memory.py), which are not JAX's alone to use. Each lives in a process of its own, which stays alive and
waits while others run; one step of each per round, after two rounds to warm up. Prints medians, minima, what ours takes
of each, and a last line of JSON. The run is "noisy", and to be repeated, where a median is more than 1.5 times its
minimum, or where other processes took more than a tenth of the machine's time: threads of PyTorch that lose a core wait
for each other, which flatters us.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from convnn_jax import cli
from convnn_jax.errors import UserError
from convnn_jax.models import make_model
from convnn_jax.models.swin_presets import SWIN
from convnn_jax.training import workdir

WARM_UP = 2
NOISY = 1.5
BUSY = 0.1
# Threads of either library wait in a loop for a while after their work; they shall be idle when the other one runs.
PAUSE = 0.3
CLASSES = 1000
# What PyTorch does with memory that it frees -> its name in the table.
PEERS = {"installed": "pytorch", "kept": "pytorch, memory kept"}
RATES = dict(learning_rate=1e-4, weight_decay=0.05)


class Ours:
  """A compiled update of our Swin with its state and a batch.

  Attributes:
    num_params: of the model.
    seconds, cpu_seconds: of each call of `step`; the second summed over threads.
  """

  def __init__(self, preset: str, batch: int):
    """Compiles it."""
    sizes = SWIN[preset]
    side = sizes["image_size"]
    model = make_model(sizes["model"], num_classes=CLASSES)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(batch, side, side, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, CLASSES, batch))
    params = jax.jit(lambda key: model.init(key, images[:1], train=False))(jax.random.key(0))["params"]
    optimizer = optax.adamw(**RATES)

    def update(params, moments, step, images, labels):
      def loss_of(params):
        rngs = {"drop_path": jax.random.fold_in(jax.random.key(1), step)}
        logits = model.apply({"params": params}, images, train=True, rngs=rngs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

      loss, gradients = jax.value_and_grad(loss_of)(params)
      changes, moments = optimizer.update(gradients, moments, params)
      return optax.apply_updates(params, changes), moments, step + 1, loss

    self.num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    self._state = (params, jax.jit(optimizer.init)(params), jnp.int32(0))
    self._batch = (images, labels)
    start = time.perf_counter()
    self._update = jax.jit(update, donate_argnums=(0, 1)).lower(*self._state, *self._batch).compile()
    self.compile_seconds = time.perf_counter() - start
    self.temp_bytes = self._update.memory_analysis().temp_size_in_bytes
    self.seconds: list[float] = []
    self.cpu_seconds: list[float] = []

  def step(self) -> float:
    """One update, awaited: its seconds."""
    start, cpu_start = time.perf_counter(), time.process_time()
    *state, loss = jax.block_until_ready(self._update(*self._state, *self._batch))
    self.seconds.append(time.perf_counter() - start)
    self.cpu_seconds.append(time.process_time() - cpu_start)
    self._state = tuple(state)
    if not np.isfinite(loss):
      raise RuntimeError(f"Our loss is {loss}.")
    return self.seconds[-1]

  def close(self) -> None:
    """Frees state and program."""
    self._state = self._update = self._batch = None


class Peer:
  """The same in PyTorch, in a process that waits for one line per step.

  Attributes:
    about: what it says of itself: num_params, versions, threads.
    seconds, cpu_seconds: of each call of `step`.
  """

  def __init__(
    self,
    preset: str,
    batch: int,
    python: str = sys.executable,
    threads: int = os.cpu_count() or 1,
    memory: str = "kept",
  ):
    """Starts it and waits until it is ready; `memory` is a key of PEERS."""
    model = SWIN[preset]["model"]
    options = dict(
      image_size=SWIN[preset]["image_size"],
      patch_size=model["patch_size"],
      embed_dim=model["width"],
      depths=model["depths"],
      num_heads=model["attention"]["num_heads"],
      window_size=model["window_size"][0],
      drop_path_rate=model["drop_path_rate"],
      num_labels=CLASSES,
    )
    words = json.dumps(dict(config=options, batch=batch, threads=threads, memory=memory, **RATES))
    command = [python, "-m", "benchmarks.swin_step_torch", words]
    self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    self.about = self._answer()
    self.seconds: list[float] = []
    self.cpu_seconds: list[float] = []

  def step(self) -> float:
    """One update, timed over there: its seconds."""
    self._process.stdin.write("step\n")
    self._process.stdin.flush()
    taken = self._answer()
    self.seconds.append(taken["seconds"])
    self.cpu_seconds.append(taken["cpu_seconds"])
    return self.seconds[-1]

  def close(self) -> None:
    """Ends the process."""
    self._process.communicate(timeout=60)

  def _answer(self) -> dict:
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f"The PyTorch process ended with code {self._process.wait()}.")
    return json.loads(line)


def main(argv: Sequence[str]) -> None:
  """Measures and prints."""
  parser = cli.Parser(description=__doc__.splitlines()[0])
  parser.add_argument("--preset", choices=PRESETS, default="swin_tiny", help="which Swin V1")
  parser.add_argument("--batch", type=int, default=8, help="images per step")
  parser.add_argument("--rounds", type=int, default=9, help="measured steps of each")
  parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch; ours takes all cores")
  parser.add_argument("--peer_python", default=sys.executable, help="Python that has torch and transformers")
  args = parser.parse_args(argv)
  if min(args.batch, args.rounds, args.threads) < 1:
    raise UserError("--batch, --rounds and --threads must be at least 1.")
  check_peer(args.peer_python)
  ours = Ours(args.preset, args.batch)
  peers = {
    name: Peer(args.preset, args.batch, args.peer_python, args.threads, memory)
    for memory, name in PEERS.items()
  }
  for peer in peers.values():
    if ours.num_params != peer.about["num_params"]:
      raise RuntimeError(f"Not the same model: {ours.num_params} and {peer.about['num_params']} parameters.")
  contenders = {"ours": ours, **peers}
  order = list(contenders.values())
  for number in range(WARM_UP + args.rounds):
    if number == WARM_UP:
      begun = time.perf_counter(), busy_seconds()
    order.append(order.pop(0))  # so that none has always the same one before it
    for contender in order:
      contender.step()
      time.sleep(PAUSE)
  passed, busy = time.perf_counter() - begun[0], busy_seconds() - begun[1]
  for peer in peers.values():
    peer.close()
  used = sum(sum(contender.cpu_seconds[WARM_UP:]) for contender in contenders.values())
  report(args, contenders, others=max(busy - used, 0.0) / (passed * os.cpu_count()))


PRESETS = ("swin_tiny", "swin_small", "swin_base", "swin_nano")


def check_peer(python: str) -> None:
  """Raises UserError unless that Python has torch and transformers."""
  if python == sys.executable:
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
  else:
    probe = (
      "import importlib.util as u; print(*[n for n in ('torch', 'transformers') if u.find_spec(n) is None])"
    )
    try:
      done = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
      raise UserError(f"--peer_python={python} does not run: {error}.") from error
    missing = done.stdout.split()
  if missing:
    raise UserError(
      f"{python} has no {' and no '.join(missing)}, which this step is compared with: pip install -r"
      " requirements-peers.txt, or name a Python that has them by --peer_python=PYTHON."
    )


def busy_seconds() -> float:
  """CPU seconds of the whole machine since it started, those that a hypervisor took away too; NaN where unknown."""
  try:
    with open("/proc/stat") as lines:
      user, nice, system, _, _, interrupt, soft, steal = map(int, lines.readline().split()[1:9])
  except (OSError, ValueError):
    return float("nan")
  return (user + nice + system + interrupt + soft + steal) / os.sysconf("SC_CLK_TCK")


def report(args, contenders: dict, others: float) -> None:
  """Prints the table and the line of JSON; `others` is the share of the machine that other processes had."""
  samples = {name: contender.seconds[WARM_UP:] for name, contender in contenders.items()}
  cpu = {name: contender.cpu_seconds[WARM_UP:] for name, contender in contenders.items()}
  medians = {name: statistics.median(seconds) for name, seconds in samples.items()}
  minima = {name: min(seconds) for name, seconds in samples.items()}
  ratios = {
    name: {"medians": medians["ours"] / medians[name], "minima": minima["ours"] / minima[name]}
    for name in PEERS.values()
  }
  noisy = [name for name in samples if medians[name] > NOISY * minima[name]]
  noisy += ["other processes"] * (others > BUSY)
  print(f"{'':<22}{'median ms':>11}{'min ms':>9}{'CPU ms':>9}   ours / it: medians, minima")
  for name in samples:
    line = f"{name:<22}{1e3 * medians[name]:>11.0f}{1e3 * minima[name]:>9.0f}"
    line += f"{1e3 * statistics.median(cpu[name]):>9.0f}"
    if name in ratios:
      line += f"{ratios[name]['medians']:>22.3f}{ratios[name]['minima']:>8.3f}"
    print(line)
  if noisy:
    print(f"noisy: {', '.join(noisy)}; run again on an idle machine")
  ours = contenders["ours"]
  milliseconds = lambda of: {name: [round(1e3 * s, 1) for s in seconds] for name, seconds in of.items()}
  figures = {
    "ratios": {name: {kind: round(value, 4) for kind, value in of.items()} for name, of in ratios.items()},
    "samples_ms": milliseconds(samples),
    "cpu_ms": milliseconds(cpu),
    "others": round(others, 3),
    "noisy": noisy,
    "preset": args.preset,
    "batch": args.batch,
    "num_params": ours.num_params,
    "temp_bytes": ours.temp_bytes,
    "compile_seconds": round(ours.compile_seconds, 1),
    "about": {name: contenders[name].about for name in PEERS.values()},
    "load_average": os.getloadavg()[0],
    "cores": os.cpu_count(),
    **workdir.environment(),
  }
  print(json.dumps(figures))


if __name__ == "__main__":
  sys.exit(cli.run(main, sys.argv[1:]))
