"""Reports on runs: sweeps, tables, pictures of attention, costs. Each module is a command; docs/reports.md."""

import os

# Before jax is imported: start-up messages of its libraries are noise; errors still come through.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
