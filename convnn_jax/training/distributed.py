"""Several processes: a TPU pod, SLURM, Open MPI, or addresses given by hand."""

import os

import jax

from convnn_jax.errors import UserError


def initialize(mode: str, coordinator: str, num_processes: int, process_id: int) -> None:
  """Joins the other processes; must come before anything touches a device.

  Args:
    mode: "auto" joins when a launcher of several processes is detected, "on" always, "off" never.
    coordinator: "host:port" of process 0, "" = ask the launcher.
    num_processes, process_id: with `coordinator` only, -1 = ask the launcher.

  Raises:
    UserError: incomplete flags, or the others cannot be reached.
  """
  if coordinator:
    if num_processes < 1 or not 0 <= process_id < num_processes:
      raise UserError(
        f"--coordinator needs --num_processes (now {num_processes}) and --process_id (now {process_id}) from 0 to"
        " num_processes - 1."
      )
  elif num_processes != -1 or process_id != -1:
    raise UserError(
      "--num_processes and --process_id need --coordinator=HOST:PORT, the address of process 0."
    )
  elif mode == "off" or (mode == "auto" and not _launched_with_others()):
    return
  # Collectives between processes on CPUs; other platforms ignore it.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  try:
    if coordinator:
      jax.distributed.initialize(coordinator, num_processes, process_id)
    else:
      jax.distributed.initialize()
  except (RuntimeError, ValueError) as error:
    raise UserError(
      f"The processes of this run did not find each other: {str(error).splitlines()[0]} Give --coordinator=HOST:PORT,"
      " --num_processes and --process_id, or --distributed=off for a single process."
    ) from error


def _launched_with_others() -> bool:
  """True under srun with several tasks, mpirun, or on a TPU pod slice with several hosts."""
  number = lambda name: int(os.environ.get(name, "1") or 1)
  slurm = "SLURM_PROCID" in os.environ and number("SLURM_STEP_NUM_TASKS") > 1
  pod = len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
  return slurm or pod or number("OMPI_COMM_WORLD_SIZE") > 1
