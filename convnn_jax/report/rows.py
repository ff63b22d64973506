"""Tables as Markdown and CSV, and folders to write them to."""

import csv
import dataclasses
import io
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from convnn_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Column:
  """A column: the key of the rows, its title, and how a value is written in Markdown."""

  key: str
  title: str
  text: Callable[[Any], str] = str


def digits(number: int, factor: float = 1.0) -> Callable[[float], str]:
  """Formats value * factor with so many decimals and thousands separators."""
  return lambda value: f"{factor * value:,.{number}f}"


percent = digits(2, 100)
"""A fraction as percent, without the sign."""


def missing(value) -> bool:
  """True for None and NaN."""
  return value is None or (isinstance(value, float) and math.isnan(value))


def markdown(columns: Sequence[Column], rows: Iterable[dict]) -> str:
  """A Markdown table, padded so that it reads well as plain text; "-" where a value is missing."""
  rows = list(rows)
  used = [c for c in columns if any(not missing(row.get(c.key)) for row in rows)] or list(columns)
  cells = [["-" if missing(row.get(c.key)) else c.text(row[c.key]) for c in used] for row in rows]
  numeric = [any(isinstance(row.get(c.key), (int, float)) for row in rows) for c in used]
  widths = [max(len(c.title), *(len(line[i]) for line in cells), 3) for i, c in enumerate(used)]

  def line(texts):
    padded = (t.rjust(w) if right else t.ljust(w) for t, w, right in zip(texts, widths, numeric, strict=True))
    return "| " + " | ".join(padded) + " |"

  rule = ("-" * (w - 1) + ":" if right else "-" * w for w, right in zip(widths, numeric, strict=True))
  return "\n".join([line([c.title for c in used]), "| " + " | ".join(rule) + " |", *map(line, cells)])


def csv_text(columns: Sequence[Column], rows: Iterable[dict]) -> str:
  """The same rows as CSV: keys as header, values unrounded, empty where missing."""
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator="\n")
  writer.writerow([c.key for c in columns])
  for row in rows:
    writer.writerow(["" if missing(row.get(c.key)) else row[c.key] for c in columns])
  return buffer.getvalue()


def write_table(folder: pathlib.Path, stem: str, columns, rows, heading: str = "") -> str:
  """Writes folder/stem.md and folder/stem.csv; returns the Markdown."""
  rows = list(rows)
  text = markdown(columns, rows)
  (folder / f"{stem}.md").write_text((f"{heading}\n\n" if heading else "") + text + "\n")
  (folder / f"{stem}.csv").write_text(csv_text(columns, rows))
  return text


def fresh_folder(out: str, default: str) -> pathlib.Path:
  """Makes the folder for a report, so that nothing is overwritten.

  Args:
    out: what the user asked for; "" = `default`, or the first of default-2, default-3, ... that is free.
    default: see above.

  Raises:
    UserError: `out` holds something, or cannot be made.
  """
  path = pathlib.Path(out or default).expanduser()
  if not out:
    stem, number = path, 1
    while _occupied(path):
      number += 1
      path = stem.with_name(f"{stem.name}-{number}")
  try:
    if _occupied(path):
      raise UserError(
        f"--out={out} is there and not empty, and nothing is overwritten; choose another --out."
      )
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f"--out={out or path} cannot be made: {error.strerror or error}; choose another."
    ) from error
  return path


def _occupied(path: pathlib.Path) -> bool:
  return path.exists() and (not path.is_dir() or any(path.iterdir()))


def numbers(flag: str, text: str, limit: int, what: str) -> list[int]:
  """ "all", "0,2" or "0-7" -> positions below `limit`, each once; UserError naming the flag otherwise."""
  if text == "all":
    return list(range(limit))
  found = []
  for word in text.split(","):
    ends = [end.strip() for end in word.split("-")]
    if len(ends) > 2 or not all(end.isascii() and end.isdigit() for end in ends):
      raise UserError(f"{flag}={text} must be 'all' or numbers such as 0,1 or 0-7.")
    first, last = int(ends[0]), int(ends[-1])
    if last >= limit:
      raise UserError(f"{flag}={text}: {what} {last} does not exist; there are {limit}, counted from 0.")
    if last < first:
      raise UserError(f"{flag}={text}: {word.strip()} counts down; write {last}-{first}.")
    found += range(first, last + 1)
  return list(dict.fromkeys(found))
