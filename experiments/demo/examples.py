"""Pictures to try the page with, made by the generator of the synthetic dataset."""

from pathlib import Path

from PIL import Image

from mbu_jax.data.synthetic.generator import generate_example

_SIZES = {"fluorescence": (256, 320), "histology": (320, 320), "bright_field": (288, 384)}


def write_examples(folder: Path) -> list[Path]:
    """Draw one picture of each kind.

    Args:
      folder: where to write.

    Returns:
      The files.
    """
    files = []
    for kind, size in _SIZES.items():
        example = generate_example("validation", 0, image_size=size, modality=kind)
        files.append(folder / f"{kind}.png")
        Image.fromarray(example["image"]).save(files[-1])
    return files
