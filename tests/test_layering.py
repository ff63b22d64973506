"""The package may only import downwards; this is what keeps cycles impossible."""

import ast
import pathlib

# From the bottom up. `data` imports no model code and models no data, although both lie under `training`.
ORDER = [
  "errors",
  "shapes",
  "registry",
  "host_memory",
  "data",
  "kernels",
  "ops",
  "layers",
  "attention",
  "models",
  "training",
]
ORDER += ["cli", "convert", "report"]
FORBIDDEN = {("models", "data"), ("attention", "data"), ("layers", "data"), ("ops", "data")}
ROOT = pathlib.Path(__file__).parents[1] / "convnn_jax"


def imports(path):
  """(part of the package, imported module) for every import of our own."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
      assert not node.level, f"{path}: relative import"
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
      continue
    yield from (name for name in names if name.split(".")[0] == "convnn_jax")


def parts():
  for path in sorted(ROOT.rglob("*.py")):
    yield path, path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_part_has_a_place():
  assert {part for _, part in parts()} - {"__init__"} == set(ORDER)


def test_imports_point_down():
  bad = []
  for path, here in parts():
    for name in imports(path):
      there = name.split(".")[1]
      if here in ORDER and there in ORDER:
        upward = ORDER.index(there) > ORDER.index(here)
        if upward or (here, there) in FORBIDDEN:
          bad.append(f"{path.relative_to(ROOT)} imports {name}")
  assert not bad, bad


def test_no_cycles_between_modules():
  modules = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path, _ in parts()}
  modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
  edges = {}
  for name, path in modules.items():
    targets = set()
    for imported in imports(path):
      target = imported if imported in modules else imported.rsplit(".", 1)[0]
      if target in modules and target != name:
        targets.add(target)
    edges[name] = targets
  done = set()

  def visit(name, trail):
    assert name not in trail, f"cycle: {' -> '.join([*trail[trail.index(name) :], name])}"
    if name not in done:
      for target in sorted(edges[name]):
        # A package's __init__ is imported before its modules; `from package import x` is no cycle then.
        if not name.startswith(f"{target}."):
          visit(target, [*trail, name])
      done.add(name)

  for name in edges:
    visit(name, [])
