"""jax.jit for tests of tiny arrays: compiles about five times as fast, runs slower, same functions."""

import functools

import jax


@functools.cache
def _options():
  options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
  options["xla_cpu_use_fusion_emitters"] = False
  try:
    jax.jit(lambda x: x + 1, compiler_options=options)(0.0)
  except jax.errors.JaxRuntimeError:  # another XLA may not know these names
    return None
  return options


def fast_jit(function, **kwargs):
  """jax.jit(function, **kwargs) with little optimisation. Tests of what the compiler makes use jax.jit itself."""
  return jax.jit(function, compiler_options=_options(), **kwargs)


def use_fast_jit(monkeypatch) -> None:
  """The same for jax.jit in the code under test, as long as the test runs."""
  monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=_options()))
