"""The original Fashion-MNIST archives out of Debian's package dataset-fashion-mnist.

Debian packs the files again without the file name and with another time stamp in the gzip header; the
compressed data are unchanged. With the original header the files have the SHA-256 that
tensorflow-datasets has on record, so its own builder accepts (and checks) them.
"""

import struct

GZIP = b"\x1f\x8b\x08"  # magic number and method
NO_NAME, WITH_NAME = b"\x00", b"\x08"  # flags
UNIX = b"\x00\x03"  # no extra compression flags; made on Unix
STAMPS = {  # seconds since 1970 in the original headers
  "train-images-idx3-ubyte.gz": 1_504_176_606,
  "train-labels-idx1-ubyte.gz": 1_504_176_606,
  "t10k-images-idx3-ubyte.gz": 1_504_176_627,
  "t10k-labels-idx1-ubyte.gz": 1_504_176_627,
}
HEADER_BYTES = 10


def is_repacked(directory):
  """True if `directory` (a pathlib.Path) holds the four archives with Debian's header."""
  return all(_starts_with(directory / name, GZIP + NO_NAME) for name in STAMPS)


def restore(source, target):
  """Writes the four archives of folder `source`, with their original headers, into folder `target`."""
  for name, stamp in STAMPS.items():
    inner_name = name.removesuffix(".gz").encode() + b"\0"
    header = GZIP + WITH_NAME + struct.pack("<I", stamp) + UNIX + inner_name
    (target / name).write_bytes(header + (source / name).read_bytes()[HEADER_BYTES:])


def _starts_with(path, prefix):
  if not path.is_file():
    return False
  with path.open("rb") as file:
    return file.read(len(prefix)) == prefix
