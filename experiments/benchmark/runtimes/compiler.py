"""XLA's start in a row's process."""

import jax
import jax.numpy as jnp

from experiments.benchmark.job import Job


def start_xla(job: Job) -> None:
    """Start XLA's threads and its compiler.

    Args:
      job: what will be run; its cores are set.
    """
    jax.config.update("jax_compilation_cache_dir", job.cache)
    jax.block_until_ready(jax.jit(jnp.sin)(1.0))
