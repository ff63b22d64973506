"""Config files are the user's code: found by path, and whatever fails in them is named by file and line."""

import contextlib
import importlib.util
import inspect
import pathlib
import sys
import traceback

from ml_collections import ConfigDict

from convnn_jax.errors import UserError, unknown_name

_NO_CONFIGS = ("__init__.py", "base.py", "recipes.py")  # what lies in configs/ beside the experiments


def get_config(file: pathlib.Path, argument: str) -> ConfigDict:
  """What get_config([argument]) of the file returns.

  Raises:
    UserError: no such file or function, or it fails.
  """
  module = load_module(file)
  if not callable(getattr(module, "get_config", None)):
    raise UserError(f"{file} has no function get_config(); see configs/convnn_k9.py for an example.")
  if argument and not inspect.signature(module.get_config).parameters:
    raise UserError(f"get_config() of {file} takes no argument; leave out ':{argument}'.")
  config = call(module, file, "get_config", argument)
  if not isinstance(config, ConfigDict):
    raise UserError(f"get_config() of {file} must return a ConfigDict, not {type(config).__name__}.")
  return config


def load_module(file: pathlib.Path):
  """The file as a module; UserError if there is no such file or it fails."""
  if not file.is_file():
    folder = file.parent if file.parent.is_dir() else pathlib.Path("configs")
    known = [str(folder / f.name) for f in folder.glob("*.py") if f.name not in _NO_CONFIGS]
    raise unknown_name("config file", str(file), known)
  if file.suffix != ".py":
    raise UserError(f"--config={file} is not a Python file; see configs/convnn_k9.py for an example.")
  spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
  module = importlib.util.module_from_spec(spec)
  with _blaming(file):
    spec.loader.exec_module(module)
  return module


def call(module, file: pathlib.Path, function: str, argument: str):
  """Calls a function of the file, with the argument if there is one and the function takes it.

  What a generator yields is returned as a list.
  """
  with _blaming(file):
    wanted = getattr(module, function)
    takes = argument and inspect.signature(wanted).parameters
    result = wanted(argument) if takes else wanted()
    return list(result) if inspect.isgenerator(result) else result


@contextlib.contextmanager
def _blaming(file: pathlib.Path):
  sys.path.insert(0, str(file.resolve().parent))  # configs outside the repository may import siblings
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # whatever it is, it is in the user's file
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    where = f"{file}, line {lines[-1]}" if lines else str(file)
    raise UserError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}") from error
  finally:
    sys.path.pop(0)
