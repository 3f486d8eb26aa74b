"""Strict settings for every test: two CPU devices, no silent promotion of rank or dtype."""

import os
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)
# Compiling is most of the work of these tests; programs that they start share what is compiled.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir(), "mbu-jax-xla")))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Threefry takes a second to compile for each new shape of weights.
os.environ.setdefault("JAX_DEFAULT_PRNG_IMPL", "rbg")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
