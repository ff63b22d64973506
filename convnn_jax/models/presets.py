"""Published sizes of models by name."""

import copy
from typing import Any

from convnn_jax.errors import choose
from convnn_jax.models.swin_presets import SWIN

PRESETS = {**SWIN}


def preset(name: str) -> dict[str, Any]:
  """A copy of dict(image_size=pixels, model=spec).

  Raises:
    UserError: no such preset.
  """
  return copy.deepcopy(choose("model preset", name, PRESETS))
