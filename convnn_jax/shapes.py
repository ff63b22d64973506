"""Named-shape checks; they run while tracing, so they cost nothing at run time."""


def check_shapes(spec: str, **arrays) -> dict[str, int]:
  """Checks shapes against names and returns the sizes.

  check_shapes("q: b n h d; k: b m h d", q=q, k=k) -> {"b": 2, "n": 17, "h": 3, "d": 8, "m": 17}

  Letters as everywhere in this project: b batch, n query tokens, m key tokens, c width, h heads,
  d channels per head, k neighbours, y and x rows and columns of the token grid. A number stands for itself.

  Raises:
    ValueError: a rank or a size differs; names the array, the axis and both sizes.
  """
  sizes: dict[str, int] = {}
  for entry in spec.split(";"):
    name, axes = (part.strip() for part in entry.split(":"))
    shape, axes = arrays[name].shape, axes.split()
    if len(shape) != len(axes):
      raise ValueError(f"{name}: expected [{' '.join(axes)}], got shape {tuple(shape)}.")
    for axis, size in zip(axes, shape, strict=True):
      want = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
      if size != want:
        raise ValueError(
          f"{name}: axis '{axis}' is {size}, expected {want} ([{' '.join(axes)}], shape {tuple(shape)})."
        )
  return sizes
