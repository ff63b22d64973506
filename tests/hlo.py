"""Facts about a compiled program, read from its text."""

import dataclasses
import math
import re

_BYTES = {
  "pred": 1,
  "s8": 1,
  "u8": 1,
  "bf16": 2,
  "f16": 2,
  "s32": 4,
  "u32": 4,
  "f32": 4,
  "s64": 8,
  "u64": 8,
  "f64": 8,
}
_SHAPE = re.compile(r"\b(" + "|".join(_BYTES) + r")\[([\d,]*)\]")
_EXCHANGES = (
  "all-reduce",
  "all-gather",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
  "collective-broadcast",
)


@dataclasses.dataclass(frozen=True)
class Exchange:
  """A collective operation.

  Attributes:
    kind: all-reduce, ...
    bytes: of its result on one device.
    times: how often it runs, the turns of the loops around it.
  """

  kind: str
  bytes: int
  times: int


def shapes(text: str) -> set[tuple[int, ...]]:
  """Dimensions of everything that the program names."""
  return {tuple(map(int, dims.split(","))) for _, dims in _SHAPE.findall(text) if dims}


def exchanges(text: str) -> list[Exchange]:
  """All collective operations."""
  bodies = {}  # computation -> its lines
  for line in text.splitlines():
    if start := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
      bodies[start[1]] = here = []
    elif line.startswith("  "):
      here.append(line)
  callers = {}  # computation -> [(caller, turns)]
  for name, lines in bodies.items():
    for line in lines:
      turns = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
      for called in re.findall(r"(?:body|to_apply|calls|condition)=%?([\w.\-]+)", line):
        callers.setdefault(called, []).append((name, int(turns[1]) if turns else 1))
  times = lambda name: sum(t * times(c) for c, t in callers[name]) if name in callers else 1
  found = []
  for name, lines in bodies.items():
    for line in lines:
      if match := re.match(rf"\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ({'|'.join(_EXCHANGES)})(?:-start)?\(", line):
        size = sum(
          _BYTES[kind] * math.prod(map(int, filter(None, dims.split(","))))
          for kind, dims in _SHAPE.findall(match[1])
        )
        found.append(Exchange(match[2], size, times(name)))
  return found


def num_aliases(text: str) -> int:
  """How many results take the memory of an argument."""
  return len(re.findall(r"(?:may|must)-alias", text.split("\n", 1)[0]))


def num_kernels(text: str) -> int:
  """Different fused computations, which a CPU's compiler gives a kernel each; equal ones share one."""
  bodies = re.findall(
    r"^%?[\w.\-]*(?:fused|wrapped)[\w.\-]* \(.*?\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL
  )
  nameless = lambda body: re.sub(r"%[\w.\-]+", "%", re.sub(r", metadata=\{[^}]*\}", "", body))
  return len({nameless(body) for body in bodies})
