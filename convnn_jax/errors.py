"""User mistakes: one clear line instead of a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
  """A mistake in a config, a flag or a path.

  The message states the value, the rule it breaks and the way out. `train.py` and `eval.py` print it
  on standard error and end with exit code 2; any other exception is a fault of ours and keeps its
  traceback.
  """


def unknown_name(kind: str, name: str, known: Iterable[str], meant: str = "") -> UserError:
  """The error for `name` not being one of `known`, with `meant` or the nearest legal name as a hint."""
  known = sorted(known)
  # "lr" for learning_rate: initials are nearer than their spelling.
  initials = [k for k in known if "".join(word[:1] for word in k.split("_")) == name]
  near = [meant] if meant else initials or difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
  hint = f" Did you mean '{near[0]}'?" if near else ""
  return UserError(f"Unknown {kind} '{name}'.{hint} Known: {', '.join(known)}.")


def choose(kind: str, name: str, table: dict):
  """table[name], or the error of `unknown_name`."""
  if name not in table:
    raise unknown_name(kind, name, table)
  return table[name]


def is_known(value) -> bool:
  """False for a number that is traced by jax, so that it cannot be checked.

  A vmapped sweep traces the numbers in which its members differ; it has checked each member before.
  """
  return isinstance(value, (int, float))


class RunFailed(RuntimeError):
  """A run that cannot go on, for example because it diverged; the command ends with exit code 1."""
