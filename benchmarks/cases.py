"""What is measured: groups of contenders that run interleaved, and the figures made of their samples."""

import dataclasses
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Ratio:
  """Smallest sample of `ours` over that of `peer`.

  Attributes:
    id: of the target.
    what: one line for the table.
    ours, peer: names of contenders.
    target: the ratio must not be larger; None = no target.
    scale: the peer's time is taken so many times.
    headline: its key among the headline's ratios; "" = none.
  """

  id: str
  what: str
  ours: str
  peer: str
  target: float | None = None
  scale: float = 1.0
  headline: str = ""
  unit = "x"

  @property
  def needs(self) -> tuple[str, ...]:
    """Names of the contenders."""
    return (self.ours, self.peer)

  def value(self, contenders, least) -> float:
    """The figure, from the contenders and their smallest samples by name."""
    del contenders
    return least[self.ours] / (self.scale * least[self.peer])


@dataclasses.dataclass(frozen=True)
class Figure:
  """A number read from contenders, such as memory.

  Attributes:
    id, what, target: as in Ratio.
    needs: names of contenders.
    read: (contenders by name, smallest samples by name) -> the number.
    unit: of the number.
    headline: its key among the headline's temporary bytes; "" = none.
  """

  id: str
  what: str
  needs: tuple[str, ...]
  read: Callable
  target: float | None = None
  unit: str = "x"
  headline: str = ""

  def value(self, contenders, least) -> float:
    """The figure."""
    return self.read(contenders, least)


@dataclasses.dataclass(frozen=True)
class Group:
  """Contenders that run interleaved.

  Attributes:
    name: for --only.
    suites: words of --suite that contain it.
    contenders: name -> function that builds it; only those that a wanted case needs are built.
    cases: what is made of them.
    needs: a package without which the contenders named in `optional` are left out; "" = none.
    optional: names.
    rounds: so many, none to warm up, where a step takes long; 0 = those of the command.
  """

  name: str
  suites: tuple[str, ...]
  contenders: Mapping[str, Callable]
  cases: tuple[Ratio | Figure, ...]
  needs: str = ""
  optional: tuple[str, ...] = ()
  rounds: int = 0
