"""Which fields of ConvNN attention go together; the words of its fields."""

from convnn_jax import registry
from convnn_jax.errors import UserError, choose, is_known, unknown_name
from convnn_jax.ops import neighbors
from convnn_jax.ops.similarity import SIMILARITIES

QUIRKS = ("scrambled_heads", "weak_self_mask", "rank_coordinates", "self_fill", "distance_weights")
CANDIDATES = ("all", "random", "spatial", "spatial_grid")
POSITION_USES = ("features", "positions", "both")
# Which of query, key and value are projected; what is not is the (head-split) input itself.
PROJECTIONS = {
  "qkv": ("query", "key", "value"),
  "qk": ("query", "key"),
  "v": ("value",),
  "none": (),
}
IMPLEMENTATIONS = {*neighbors.IMPLEMENTATIONS, "pallas"}


def check(spec, context):
  """Raises UserError for fields of a ConvNNAttention that cannot work, or a context that has no meaning."""
  choose("similarity", spec.similarity, SIMILARITIES)
  choose("weighting", spec.weighting, neighbors.WEIGHTINGS)
  choose("projection", spec.projection, PROJECTIONS)
  if spec.implementation not in IMPLEMENTATIONS:
    raise unknown_name("implementation", spec.implementation, IMPLEMENTATIONS)
  _check_kernel(spec)
  if spec.candidates not in CANDIDATES:
    raise unknown_name("candidates", spec.candidates, CANDIDATES)
  if spec.candidate_padding and spec.candidates != "spatial":
    raise UserError(
      f"candidate_padding={spec.candidate_padding} has no effect with candidates='{spec.candidates}'; leave it out, or"
      " use candidates='spatial'."
    )
  _check_quirks(spec)
  if is_known(spec.temperature) and spec.temperature < 1e-6:  # smaller ones overflow in float32
    raise UserError(f"temperature={spec.temperature} must be at least 1e-6.")
  if is_known(spec.temperature) and spec.temperature != 1 and "softmax" not in spec.weighting:
    raise UserError(
      f"temperature={spec.temperature} has no effect with weighting='{spec.weighting}', which takes no softmax;"
      " leave it out, or use weighting='softmax' or 'full_softmax'."
    )
  if spec.value_features < 0:
    raise UserError(f"value_features={spec.value_features} must be at least 0 (0 = the full width).")
  narrow_values_fit = (
    not spec.split_heads and spec.convolution == "standard" and "value" in PROJECTIONS[spec.projection]
  )
  if spec.value_features and not narrow_values_fit:
    raise UserError(
      f"value_features={spec.value_features} needs split_heads=False, projection='qkv' or 'v', and"
      " convolution='standard', which brings the values back to the full width."
    )
  _check_positions(spec)
  if context is not None and spec.candidates != "all":
    raise UserError(
      f"convnn attention with candidates='{spec.candidates}' always takes the token itself as a neighbour, which"
      " has no meaning in cross-attention; use candidates='all'."
    )


def _check_kernel(spec):
  """What the kernel is written for."""
  if spec.implementation != "pallas":
    return
  needs = dict(similarity="dot", weighting="softmax", candidates="all")
  for field, word in needs.items():
    if getattr(spec, field) != word:
      raise UserError(
        f"{field}='{getattr(spec, field)}' is not in the kernel of implementation='pallas', which needs"
        f" {field}='{word}'; use implementation='auto'."
      )
  if not is_known(spec.temperature):
    raise UserError("implementation='pallas' needs one temperature for all members of a sweep; use 'auto'.")
  if spec.convolution == "standard" or "self_fill" in spec.quirks:
    what = "convolution='standard'" if spec.convolution == "standard" else "The quirk 'self_fill'"
    raise UserError(f"{what} is not in the kernel of implementation='pallas'; use implementation='auto'.")


def _check_quirks(spec):
  """Each of them is known, and has something to act on."""
  sampled = spec.candidates != "all"
  needs = {
    "distance_weights": (spec.similarity == "euclidean", "similarity='euclidean'"),
    "weak_self_mask": (sampled, "sampled candidates"),
    "rank_coordinates": (sampled, "sampled candidates"),
    "self_fill": (not sampled, "candidates='all'"),
  }
  for quirk in spec.quirks:
    if quirk not in QUIRKS:
      raise unknown_name("quirk", quirk, QUIRKS)
    fits, what = needs.get(quirk, (True, ""))
    if not fits:
      raise UserError(
        f"The quirk '{quirk}' needs {what}; it has no effect with similarity='{spec.similarity}' and"
        f" candidates='{spec.candidates}'. Leave it out."
      )
  usual = registry.defaults(type(spec))["self_fill_value"]
  if "self_fill" not in spec.quirks and is_known(spec.self_fill_value) and spec.self_fill_value != usual:
    raise UserError(
      f"self_fill_value={spec.self_fill_value} has no effect without the quirk 'self_fill'; leave it out, or give"
      " quirks=('self_fill',)."
    )


def _check_positions(spec):
  for field in ("similarity_on", "aggregate_on"):
    if getattr(spec, field) not in POSITION_USES:
      raise unknown_name(field, getattr(spec, field), POSITION_USES)
  words = {spec.similarity_on, spec.aggregate_on}
  if spec.coordinate_encoding and words != {"features"}:
    raise UserError(
      f"coordinate_encoding=True means 'both' for similarity_on='{spec.similarity_on}' and"
      f" aggregate_on='{spec.aggregate_on}'; give either it or the two words."
    )
  given = "coordinate_encoding=True" if spec.coordinate_encoding else f"aggregate_on='{spec.aggregate_on}'"
  if (spec.coordinate_encoding or spec.aggregate_on != "features") and spec.convolution == "depthwise":
    raise UserError(
      f"{given} changes the number of channels of the values (the position is one more, or the only one), and a"
      " depthwise convolution cannot turn them into d; use convolution='standard' or 'depthwise_separable'."
    )
  if spec.value_features and spec.aggregate_on == "positions":
    raise UserError(
      f"value_features={spec.value_features} needs values with features; use aggregate_on='features' or 'both'."
    )
