"""A stand-in for TensorFlow while tensorflow-datasets prepares a set.

Reading a prepared set needs no TensorFlow. Preparing one does, for a handful of calls: opening files,
text conversion, and encoding or decoding single images. `tensorflow_or_stand_in` supplies these with
Pillow and pathlib, only where TensorFlow is absent, and only for the time of the preparation.
"""

import contextlib
import importlib.util
import io
import os
import shutil
import sys
import types

import numpy as np


@contextlib.contextmanager
def tensorflow_or_stand_in():
  """Inside, `import tensorflow` succeeds; yields "tensorflow" or "stand-in"."""
  if importlib.util.find_spec("tensorflow") is not None:
    yield "tensorflow"
    return
  from tensorflow_datasets.core.utils import lazy_imports_utils, tf_utils

  run_in_graph = tf_utils.TFGraphRunner.run
  sys.modules["tensorflow"] = _stand_in()
  tf_utils.TFGraphRunner.run = lambda self, function, value: function(value)
  try:
    yield "stand-in"
  finally:
    tf_utils.TFGraphRunner.run = run_in_graph
    del sys.modules["tensorflow"]
    # tensorflow-datasets caches the module in its lazy import; other code must not meet it there.
    lazy_imports_utils.tensorflow.__dict__.pop("_module", None)


def _stand_in():
  from etils import epath

  tf = types.ModuleType("tensorflow")
  tf.__version__ = "2.99.0"  # only compared with a minimum
  tf.__spec__ = importlib.util.spec_from_loader("tensorflow", loader=None)
  gfile = types.SimpleNamespace(
    GFile=lambda name, mode="r": epath.Path(name).open(mode),
    exists=lambda path: epath.Path(path).exists(),
    remove=lambda path: epath.Path(path).unlink(),
    listdir=os.listdir,
    isdir=lambda path: epath.Path(path).is_dir(),
    makedirs=lambda path: epath.Path(path).mkdir(parents=True, exist_ok=True),
    rmtree=shutil.rmtree,
  )
  tf.io = types.SimpleNamespace(gfile=gfile)
  tf.compat = types.SimpleNamespace(as_text=_as_text)
  tf.errors = types.SimpleNamespace(ResourceExhaustedError=type("ResourceExhaustedError", (Exception,), {}))
  tf.Tensor = type("Tensor", (), {})  # asked for in isinstance only
  tf.RaggedTensor = type("RaggedTensor", (), {})
  tf.image = types.SimpleNamespace(
    encode_png=lambda image: _encode(image, "PNG"),
    encode_jpeg=lambda image, format="rgb", quality=95: _encode(image, "JPEG", quality=quality),
    decode_image=_decode,
    decode_png=_decode,
    decode_jpeg=_decode,
  )
  return tf


def _as_text(value):
  return value.decode() if isinstance(value, bytes) else str(value)


def _encode(image, kind, **options):
  """uint8 [y x c] with c of 1 or 3 -> encoded bytes."""
  from PIL import Image

  image = np.asarray(image)
  buffer = io.BytesIO()
  Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, kind, **options)
  return buffer.getvalue()


def _decode(encoded, channels=3):
  """Encoded bytes -> uint8 [y x 3]; ImageNet's few CMYK and PNG files pass through here."""
  from PIL import Image

  del channels  # every caller wants RGB
  return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
