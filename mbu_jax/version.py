"""The version of what is installed."""

import importlib.metadata

try:
    __version__ = importlib.metadata.version("mbu_jax")
except importlib.metadata.PackageNotFoundError:  # run from a checkout that nobody installed
    __version__ = "unknown"
