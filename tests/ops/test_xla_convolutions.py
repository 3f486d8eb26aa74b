"""The `xla` engine's convolutions against the references; `ConvCases` holds the assertions."""

from mbu_jax import ops
from mbu_jax.ops.conv3x3 import arg_specs as conv_specs
from mbu_jax.ops.conv3x3.reference import conv3x3_reference
from mbu_jax.ops.up_conv2x2 import arg_specs as up_specs
from mbu_jax.ops.up_conv2x2.reference import up_conv2x2_reference
from tests.ops.cases import ConvCases


class TestConv3x3(ConvCases):
    operation = ops.conv3x3
    reference = conv3x3_reference
    implementation = "xla"
    specs = conv_specs.ODD


class TestUpConv2x2(ConvCases):
    operation = ops.up_conv2x2
    reference = up_conv2x2_reference
    implementation = "xla"
    specs = up_specs.ODD
