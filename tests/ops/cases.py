"""What every engine of a packed convolution must satisfy; one subclass an engine."""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from mbu_jax.ops.specs import ConvSpec
from mbu_jax.packing import PackedConv, valid_bits


class ConvCases:
    """Equal to the operation's reference on every shape, batched and mapped.

    Attributes:
      operation: the public function.
      reference: its definition.
      implementation: name of the engine.
      specs: the shapes.
    """

    operation: ClassVar[Callable[..., Array]]
    reference: ClassVar[Callable[[Array, PackedConv], Array]]
    implementation: ClassVar[str]
    specs: ClassVar[tuple[ConvSpec, ...]]

    def run(self, x: Array, layer: PackedConv) -> Array:
        return type(self).operation(x, layer, implementation=self.implementation)

    def expected(self, x: Array, layer: PackedConv) -> Array:
        return jax.jit(type(self).reference)(x, layer)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "spec" in metafunc.fixturenames:
            metafunc.parametrize("spec", self.specs, ids=lambda spec: spec.name)

    def test_words_are_the_references(self, spec: ConvSpec) -> None:
        x, layer = spec.arguments(seed=1)
        words, expected = self.run(x, layer), self.expected(x, layer)
        assert words.dtype == jnp.uint32
        np.testing.assert_array_equal(words, expected)
        assert not (np.asarray(words) & ~valid_bits((spec.out_channels,))).any()

    def test_mapped_images_are_a_larger_batch(self) -> None:
        x, layer = self.specs[1].arguments(seed=2)
        pair = jnp.stack([x, x[::-1]], axis=3)
        words = jax.vmap(self.run, in_axes=(3, None), out_axes=1)(pair, layer)
        np.testing.assert_array_equal(words[:, 0], self.expected(x, layer))
        np.testing.assert_array_equal(words[::-1, 1], words[:, 0])

    def test_mapped_layers_follow_each_other(self) -> None:
        x, layer = self.specs[1].arguments(seed=3)
        _, other = self.specs[1].arguments(seed=4)
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), layer, other)
        words = jax.vmap(self.run, in_axes=(None, 0))(x, both)
        np.testing.assert_array_equal(words[0], self.expected(x, layer))
        np.testing.assert_array_equal(words[1], self.expected(x, other))
