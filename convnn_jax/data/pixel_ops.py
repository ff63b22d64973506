"""Operations of AutoAugment and RandAugment on uint8 images, as Pillow computes them.

Each row of a batch gets an operation of its own. All are computed and one is kept, which is what vector hardware
wants; the geometric ones share one warp, the enhancing ones one blend. Where Pillow truncates a float that lies within
rounding of a whole number (autocontrast, enhancing, interpolated warps), the result may differ by one grey level.
"""

import jax
import jax.numpy as jnp

NEAREST, BILINEAR, BICUBIC = 0, 1, 2


def apply_op(images, names, op, value, interpolation, fill):
  """Applies operation names[op[i]] to image i.

  Args:
    images: uint8 [b y x c].
    names: tuple of keys of OPERATIONS; only these are computed.
    op: int32 [b], positions in `names`.
    value: float32 [b], the operation's argument in the unit that OPERATIONS states.
    interpolation: int32 [b], NEAREST, BILINEAR or BICUBIC, for the geometric operations.
    fill: int [c] or [1], the colour of pixels from outside the image.

  Returns:
    uint8 [b y x c].
  """
  op, value = op.reshape(-1, 1, 1, 1), value.reshape(-1, 1, 1, 1)
  pixels = images.astype(jnp.int32)
  result = pixels
  keep = lambda name, new, old: jnp.where(op == names.index(name), new, old)
  for name in names:
    if name in _POINTWISE:
      result = keep(name, _POINTWISE[name](pixels, value), result)
  enhancing = [name for name in names if name in _DEGENERATE]
  if enhancing:
    degenerate = pixels  # a blend with itself is the image
    for name in enhancing:
      degenerate = keep(name, _DEGENERATE[name](pixels), degenerate)
    enhanced = blend(degenerate, pixels, value)
    for name in enhancing:
      result = keep(name, enhanced, result)
  geometric = [name for name in names if name in _MATRIX]
  if geometric:
    still = jnp.broadcast_to(jnp.array([1.0, 0, 0, 0, 1, 0]), (images.shape[0], 6))
    matrix = still
    for name in geometric:
      moved = _MATRIX[name](value.reshape(-1), still, images.shape[1:3])
      matrix = jnp.where((op == names.index(name)).reshape(-1, 1), moved, matrix)
    warped = warp(images, matrix, interpolation, fill)
    for name in geometric:
      result = keep(name, warped, result)
  return result.astype(jnp.uint8)


def autocontrast(pixels):
  """Stretches each channel's range to 0 to 255: int32 [b y x c] -> the same."""
  low, high = (f(pixels, axis=(1, 2), keepdims=True) for f in (jnp.min, jnp.max))
  return jnp.where(high > low, (pixels - low) * 255 // jnp.maximum(high - low, 1), pixels)


def equalize(pixels):
  """Flattens each channel's histogram: int32 [b y x c] -> the same."""
  _, y, x, _ = pixels.shape
  planes = jnp.moveaxis(pixels, -1, 1)  # [b c y x]

  def one(plane):
    counts = jnp.zeros(256, jnp.int32).at[plane].add(1, mode="promise_in_bounds")
    step = (y * x - counts[jnp.max(plane)]) // 255
    table = (step // 2 + jnp.cumsum(counts) - counts) // jnp.maximum(step, 1)
    table = jnp.where(step > 0, jnp.minimum(table, 255), jnp.arange(256))
    return table.at[plane].get(mode="promise_in_bounds")

  return jnp.moveaxis(jax.vmap(jax.vmap(one))(planes), 1, -1)


def posterize(pixels, bits):
  """Keeps the highest `bits` bits; 0 makes black, which newer Pillow refuses: int32 [b y x c], [b 1 1 1]."""
  return pixels & (256 - (1 << (8 - bits.astype(jnp.int32))))


def grey(pixels):
  """Luma of ITU-R 601-2 in Pillow's fixed point: int32 [b y x c] -> [b y x 1]."""
  if pixels.shape[-1] == 1:
    return pixels
  weights = jnp.array([19595, 38470, 7471], jnp.int32)
  return (jnp.sum(pixels * weights.reshape(1, 1, 1, 3), axis=-1, keepdims=True) + 0x8000) >> 16


def _mean_grey(pixels):
  n = pixels.shape[1] * pixels.shape[2]
  total = jnp.sum(grey(pixels), axis=(1, 2, 3), keepdims=True)
  return jnp.broadcast_to((2 * total + n) // (2 * n), pixels.shape)


def smooth(pixels):
  """Mean of 3 x 3 pixels with weight 5 in the middle and 1 around; the border stays: int32 [b y x c]."""
  _, y, x, _ = pixels.shape
  if min(y, x) < 3:
    return pixels
  total = 4 * pixels[:, 1:-1, 1:-1]
  for row in range(3):
    for column in range(3):
      total += pixels[:, row : row + y - 2, column : column + x - 2]
  return pixels.at[:, 1:-1, 1:-1].set((2 * total + 13) // 26)


def blend(degenerate, pixels, factor):
  """degenerate + factor * (pixels - degenerate), cut to 0 to 255 and truncated: int32 [b y x c], [b 1 1 1]."""
  value = degenerate + factor * (pixels - degenerate)
  return jnp.clip(value, 0, 255).astype(jnp.int32)


# name -> (int32 [b y x c], value [b 1 1 1]) -> int32 [b y x c]
_POINTWISE = {
  "autocontrast": lambda pixels, value: autocontrast(pixels),
  "equalize": lambda pixels, value: equalize(pixels),
  "invert": lambda pixels, value: 255 - pixels,
  "posterize": posterize,
  "solarize": lambda pixels, value: jnp.where(pixels < value, pixels, 255 - pixels),
  "solarize_add": lambda pixels, value: jnp.where(
    pixels < 128, jnp.minimum(pixels + value.astype(jnp.int32), 255), pixels
  ),
}

# name -> the image at factor 0; factor 1 is the image itself
_DEGENERATE = {
  "color": lambda pixels: jnp.broadcast_to(grey(pixels), pixels.shape),
  "contrast": _mean_grey,
  "brightness": jnp.zeros_like,
  "sharpness": smooth,
}


def _rotation(degrees, still, shape):
  """About the centre, counter-clockwise."""
  y, x = (size / 2 for size in shape)
  angle = -jnp.deg2rad(degrees)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.stack([cos, sin, x - x * cos - y * sin, -sin, cos, y + x * sin - y * cos], axis=-1)


# name -> (value [b], identity [b 6], (y, x)) -> matrix [b 6], see `warp`
_MATRIX = {
  "rotate": _rotation,
  "shear_x": lambda value, still, shape: still.at[:, 1].set(value),
  "shear_y": lambda value, still, shape: still.at[:, 3].set(value),
  "translate_x": lambda value, still, shape: still.at[:, 2].set(value * shape[1]),
  "translate_y": lambda value, still, shape: still.at[:, 5].set(value * shape[0]),
}

OPERATIONS = {
  "identity": "",
  "autocontrast": "",
  "equalize": "",
  "invert": "",
  "posterize": "bits kept",
  "solarize": "values from here on are inverted",
  "solarize_add": "added to values below 128",
  "color": "factor, 1 = unchanged",
  "contrast": "factor, 1 = unchanged",
  "brightness": "factor, 1 = unchanged",
  "sharpness": "factor, 1 = unchanged",
  "rotate": "degrees, counter-clockwise",
  "shear_x": "columns per row",
  "shear_y": "rows per column",
  "translate_x": "share of the width, to the left",
  "translate_y": "share of the height, upwards",
}


def warp(images, matrix, interpolation, fill):
  """Affine warp: the pixel at (x, y) is taken from (m0 x + m1 y + m2, m3 x + m4 y + m5), centres at 0.5.

  Args:
    images: uint8 [b y x c].
    matrix: float32 [b 6], m0 to m5.
    interpolation: int32 [b]; BICUBIC has coefficient -1, as Pillow's warp (its resize has -0.5).
    fill: int [c] or [1], for pixels whose source lies outside.

  Returns:
    int32 [b y x c].
  """
  _, rows, columns, c = images.shape
  method = interpolation.reshape(-1, 1, 1)
  m = [matrix[:, i].reshape(-1, 1, 1) for i in range(6)]
  x, y = jnp.arange(columns).reshape(1, 1, -1), jnp.arange(rows).reshape(1, -1, 1)
  source_x, nearest_x = _source(m[0], m[1], m[2], x, y)
  source_y, nearest_y = _source(m[3], m[4], m[5], x, y)
  first_x, weights_x = _taps(source_x, nearest_x, method)
  first_y, weights_y = _taps(source_y, nearest_y, method)
  total = 0.0
  for row in range(4):
    line = 0.0
    at_y = jnp.clip(first_y + row, 0, rows - 1)
    for column in range(4):
      at_x = jnp.clip(first_x + column, 0, columns - 1)
      pixels = jax.vmap(_take)(images, at_y, at_x).astype(jnp.float32)
      line += weights_x[column][..., None] * pixels
    total += weights_y[row][..., None] * line
  # Pillow truncates a float64; without the small number our float32 would make 127 of 127.9999.
  value = jnp.clip(total + 1e-3, 0, 255).astype(jnp.int32)
  smooth_inside = (source_x >= 0) & (source_x < columns) & (source_y >= 0) & (source_y < rows)
  nearest_inside = (nearest_x >= 0) & (nearest_x < columns) & (nearest_y >= 0) & (nearest_y < rows)
  inside = jnp.where(method == NEAREST, nearest_inside, smooth_inside)
  return jnp.where(inside[..., None], value, jnp.broadcast_to(jnp.asarray(fill, jnp.int32), (1, 1, 1, c)))


def _source(a, b, c, x, y):
  """One coordinate of the source of every pixel: (float32, and whole-number by Pillow's 16.16 fixed point)."""
  fixed = [jnp.floor(v * 65536 + 0.5).astype(jnp.int32) for v in (a, b, c + 0.5 * a + 0.5 * b)]
  nearest = (fixed[2] + fixed[0] * x + fixed[1] * y) >> 16
  return a * (x + 0.5) + b * (y + 0.5) + c, nearest


def _taps(source, nearest, method):
  """First of four neighbouring pixels in one direction, and their weights."""
  source = source - 0.5
  whole = jnp.floor(source)
  d = source - whole
  d2, d3 = d * d, d * d * d
  zero, one = jnp.zeros_like(d), jnp.ones_like(d)
  cubic = (-d + 2 * d2 - d3, 1 - 2 * d2 + d3, d + d2 - d3, d3 - d2)
  linear = (zero, 1 - d, d, zero)
  point = (zero, one, zero, zero)
  choose = lambda n, li, cu: jnp.where(method == NEAREST, n, jnp.where(method == BILINEAR, li, cu))
  weights = [choose(*options) for options in zip(point, linear, cubic, strict=True)]
  return jnp.where(method == NEAREST, nearest, whole.astype(jnp.int32)) - 1, weights


def _take(image, rows, columns):
  """image [Y X c], rows and columns [y x] -> [y x c]."""
  return image.at[rows, columns].get(mode="promise_in_bounds")
