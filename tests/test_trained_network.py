"""A trained network and its packed form agree on every bit.

Random weights do not look like trained ones: a trained network's densities differ by layer, its
sums crowd around its thresholds, and some of its channels are constant.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from numpy.typing import NDArray

from mbu_jax.data.synthetic.generator import MODALITIES, generate_example
from mbu_jax.inference import infer_with_activations, pack
from mbu_jax.packing import PackedUNet
from tests.oracles import packed_network
from tests.trained.network import trained_model
from tests.unet_models import QUICKLY, run

model = cache(trained_model)


@cache
def params() -> PackedUNet:
    return pack(model())


EXAMPLES = [generate_example("validation", 3, modality=modality) for modality in MODALITIES]
IMAGES = {
    "synthetic": np.stack([example["image"][:67, :93] for example in EXAMPLES]),
    "noise": np.random.default_rng(0).random((2, 17, 46, 3), np.float32),
}


@cache
def answer(kind: str) -> tuple[Array, dict[str, NDArray]]:
    """The model's logits, and what each of its parts gives."""
    return run(model(), IMAGES[kind], QUICKLY)


@pytest.mark.parametrize("kind", IMAGES)
def test_model_and_packed_network_agree_on_every_bit(kind: str) -> None:
    logits, seen = answer(kind)
    operands = params(), jnp.asarray(IMAGES[kind])
    program = jax.jit(infer_with_activations).lower(*operands)
    packed_logits, words = program.compile(compiler_options=QUICKLY)(*operands)
    norms = {name.replace(".norm", ".conv"): y for name, y in seen.items() if ".norm" in name}
    assert norms.keys() == words.keys()
    for name, activations in norms.items():
        codes = ((activations + 1) // 2).astype(np.int64)
        expected = packed_network.write_codes(codes, bits=1)
        np.testing.assert_array_equal(words[name], expected, err_msg=name)
    np.testing.assert_array_equal(packed_logits, logits)
    assert np.unique(np.asarray(logits)).size > 50


def test_it_sees_nuclei() -> None:
    """It learnt from real ones and never saw these."""
    logits, _ = answer("synthetic")
    assert MODALITIES[0] == "fluorescence"
    found = np.asarray(logits)[0, ..., 0] > 0
    truth = EXAMPLES[0]["mask"][:67, :93] == 1
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.7


def test_its_densities_are_those_of_training() -> None:
    """Every masked layer starts with a tenth of its weights."""
    densities = {name: conv.density for name, conv in params().convs.items()}
    assert len(densities) == 21
    assert min(densities.values()) > 0.3
    assert max(densities.values()) < 0.6
