"""The compiled library behind the `bitsliced` engine: found, loaded, registered with XLA once."""

import ctypes
import functools
from pathlib import Path

import jax

_LIBRARY = Path(__file__).parents[2] / "native" / "libmbu.so"
TARGETS = ("mbu_stem", "mbu_conv", "mbu_pool", "mbu_head")


@functools.cache
def absent() -> str | None:
    """Load the library and register its functions.

    Returns:
      What is missing, in words, or None where the engine can run.
    """
    if not _LIBRARY.exists():
        return (
            "its library was not compiled; install a C++ compiler (g++ 12, say), then mbu_jax from "
            "source, whose build says what failed"
        )
    try:
        library = load()
    except (OSError, AttributeError) as error:  # the latter where it is of another version
        return f"its library cannot be loaded ({error}); install mbu_jax anew"
    try:
        # Registers what waits: types have to come before the functions that use them.
        jax.devices("cpu")
        _register(library)
    except (RuntimeError, AttributeError) as error:
        return f"XLA does not take its library ({error}); install mbu_jax anew"
    return None


def _register(library: ctypes.CDLL) -> None:
    library.mbu_conv_state_id.restype = ctypes.c_void_p
    library.mbu_conv_state_info.restype = ctypes.c_void_p
    jax.ffi.register_ffi_type(
        "mbu_conv_state",
        {
            "type_id": jax.ffi.pycapsule(library.mbu_conv_state_id()),
            "type_info": jax.ffi.pycapsule(library.mbu_conv_state_info()),
        },
        platform="cpu",
    )
    for target in TARGETS:
        stages = {"execute": jax.ffi.pycapsule(getattr(library, target))}
        if target == "mbu_conv":
            stages["instantiate"] = jax.ffi.pycapsule(library.mbu_conv_instantiate)
        jax.ffi.register_ffi_target(target, stages, platform="cpu")


def instructions() -> str:
    """Name the instruction set that the library runs with.

    Returns:
      ``avx512vnni``, ``avx512``, ``avx2`` or ``portable``.
    """
    return load().mbu_instructions().decode()


@functools.cache
def load() -> ctypes.CDLL:
    """Load the library with the types of its plain functions.

    Returns:
      The library.

    Raises:
      OSError: where it is missing; see `absent`.
      AttributeError: where it lacks a function, being of another version.
    """
    library = ctypes.CDLL(str(_LIBRARY))
    library.mbu_instructions.restype = ctypes.c_char_p
    library.mbu_vector_bytes.restype = ctypes.c_int64
    library.mbu_lists_made.restype = ctypes.c_int64
    library.mbu_add_only.argtypes = (ctypes.c_int64,)
    library.mbu_read_only.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    for function in (library.mbu_add_only, library.mbu_read_only):
        function.restype = ctypes.c_uint32
    return library
