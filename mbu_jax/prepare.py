"""Packed networks made ready: everything that depends on the network alone is computed once."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Jaxpr
from jax.typing import DTypeLike

from mbu_jax.errors import InputError
from mbu_jax.inference import infer
from mbu_jax.ops.gpu import target
from mbu_jax.ops.operation import check_platform, default_platform, known_platform
from mbu_jax.packing import PackedUNet, check_packed


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A packed network for images of one shape on one platform: a pytree of its constants.

    It may be passed to ``jit``, mapped over by ``vmap``, moved by ``device_put``, and takes a
    batch that is sharded over devices.

    Attributes:
      constants: weights in the order in which the engines read them, thresholds and the rest.
      program: what is computed of them and of images; static.
      images: shape and dtype of what it takes; static.
      run: the program as a compiled function of constants and images; static. What is compiled is
        freed with it, so that a network that is replaced leaves nothing behind.
    """

    constants: tuple[Array, ...]
    program: Jaxpr
    images: jax.ShapeDtypeStruct
    run: Callable[[tuple[Array, ...], Array], Array] = dataclasses.field(repr=False)

    def __call__(self, images: Array) -> Array:
        """Segment images, as `mbu_jax.infer` does with the network, bit for bit.

        Args:
          images: of the shape and dtype that it was prepared for.

        Returns:
          Float32 logits of shape [B, H, W, classes] or [H, W, classes].

        Raises:
          InputError: for another shape or dtype, or on another platform.
        """
        if (images.shape, images.dtype) != (self.images.shape, self.images.dtype):
            raise InputError(
                f"images are {images.dtype}{list(images.shape)}; the network was prepared for "
                f"{self.images.dtype}{list(self.images.shape)}"
            )
        return self.run(self.constants, images)


jax.tree_util.register_dataclass(
    Prepared, data_fields=["constants"], meta_fields=["program", "images", "run"]
)


def _compiled(program: Jaxpr) -> Callable[[tuple[Array, ...], Array], Array]:
    @jax.jit
    def run(constants: tuple[Array, ...], images: Array) -> Array:
        (logits,) = jax.core.eval_jaxpr(program, constants, images)
        return logits

    return run


def prepare(
    params: PackedUNet,
    shape: Sequence[int],
    *,
    platform: str | None = None,
    compute_capability: int | None = None,
    implementation: str | None = None,
    dtype: DTypeLike = np.uint8,
) -> Prepared:
    """Make a packed network ready for many images of one shape.

    The engines of a GPU read weights in an order of their own; `infer` makes it on every call.
    Here it is made once, and lists of non-zero weights become no longer than they have to be.

    Args:
      params: the network.
      shape: of the images, [B, H, W, C] or [H, W, C].
      platform: where it will run, ``cpu``, ``cuda``, ``rocm`` or ``tpu``; None is that of the
        default device, or ``cuda`` where a compute capability is given.
      compute_capability: of the GPU that it is for, 90 for an H100; by default that of the GPU
        here. No GPU is needed to name one.
      implementation: name of the engine of the convolutions, or None for the best that the
        platform has.
      dtype: of the images, uint8 or float32.

    Returns:
      A function of images.

    Raises:
      InputError: for what is no packed network, images that it cannot take, or an engine that is
        unknown or cannot run there.

    Example:
      >>> from flax import nnx
      >>> from mbu_jax import UNet, UNetConfig, pack
      >>> params = pack(UNet(UNetConfig(width=2), rngs=nnx.Rngs(0)))
      >>> segment = prepare(params, (2, 20, 33, 3))
      >>> images = np.arange(2 * 20 * 33 * 3).reshape(2, 20, 33, 3).astype(np.uint8)
      >>> bool((segment(images) == infer(params, images)).all())
      True
    """
    check_packed(params)
    here = default_platform()
    if platform is None:
        platform = here if compute_capability is None else "cuda"
    check_platform(platform, compute_capability)
    images = _checked(shape, dtype)

    def segment(images: Array) -> Array:
        return infer(params, images, implementation=implementation)

    with contextlib.ExitStack() as aims:
        if platform != here or compute_capability not in (None, target.target()):
            # Kernels for a GPU that is not here cannot arrange anything.
            aims.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
        if compute_capability is not None:
            aims.enter_context(target.compute_capability(compute_capability))
        aims.enter_context(known_platform(platform))
        # What depends on nothing that is traced is computed here and now.
        with jax.ensure_compile_time_eval():
            closed = jax.make_jaxpr(segment)(images)
        constants = tuple(map(jnp.asarray, closed.consts))
    return Prepared(constants, closed.jaxpr, images, _compiled(closed.jaxpr))


def _checked(shape: Sequence[int], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    if np.dtype(dtype) not in (np.uint8, np.float32):
        raise InputError(f"dtype is {np.dtype(dtype)}; choose uint8 or float32")
    if len(shape) not in (3, 4) or not all(isinstance(n, int) and n > 0 for n in shape):
        raise InputError(f"shape is {tuple(shape)}; give [B, H, W, C] or [H, W, C], all 1 or more")
    return jax.ShapeDtypeStruct(tuple(shape), dtype)
