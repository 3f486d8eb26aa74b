"""Generated nuclei: the data set that needs no download."""

from mbu_jax.data.synthetic.generator import MODALITIES, generate_example
from mbu_jax.data.synthetic.source import SyntheticSource, synthetic_source

__all__ = ["MODALITIES", "SyntheticSource", "generate_example", "synthetic_source"]
