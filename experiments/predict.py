"""Segment your own images: python -m experiments.predict --model RUN IMAGES --out DIR."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses
import io
import re
import sys
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

from experiments import command
from experiments.model_file import load_for_pictures, model_file, network_size
from mbu_jax.data.frames import PICTURE_SUFFIXES, VIDEO_SUFFIXES, Frames, read_frames
from mbu_jax.data.reading import scale_image
from mbu_jax.drawing import CLASS_COLOURS, draw_overlay
from mbu_jax.errors import InputError
from mbu_jax.files import write_bytes_atomic
from mbu_jax.instances import label_instances
from mbu_jax.packing import PackedUNet
from mbu_jax.predict import logits_to_mask, predict

_MASK, _OVERLAY, _INSTANCES = ".mask.png", ".overlay.png", ".instances.png"
_WILDCARDS = re.compile(r"[*?[]")
_FRAME_NAME = re.compile(r"\d{6,}")


@dataclasses.dataclass(frozen=True)
class InstanceOptions:
    """How objects that touch are told apart, with --instances."""

    instances: bool = False
    """Write NAME.instances.png too: 16-bit, one number for each object."""

    min_distance: int = 5
    """Pixels between the middles of touching objects at least; larger numbers cut less."""

    smoothing: float = 1.0
    """Standard deviation in pixels of the smoothing of the distances; larger numbers cut less."""

    min_size: int = 0
    """Leave out objects of fewer pixels."""


@dataclasses.dataclass(frozen=True)
class TilingOptions:
    """How large images are cut; the defaults change no pixel of the result."""

    tile: int = 1024
    """Side of a tile in pixels, a multiple of 16; smaller ones take less memory and more time."""

    overlap: int | None = None
    """Pixels that tiles share: by default 192 or half a tile. Less is faster, with seams."""

    batch_size: int | None = None
    """Tiles at once on each device; by default 1 on a CPU and 8 elsewhere."""


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Segment images, folders of images and videos, and write masks and overlays as PNG.

    For a picture NAME the masks are NAME.mask.png (class numbers, in colours for the eye) and
    NAME.overlay.png; for frame 7 of a video or stack, NAME/000007.mask.png and so on. Folders are
    searched for pictures and videos and keep their sub-folders.
    """

    inputs: tyro.conf.Positional[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="IN [IN ...]")]
    ] = ()
    """Images (PNG, JPEG, GIF, TIFF, BMP), videos (with PyAV), folders, or patterns in quotes."""

    model: Path = Path("runs/synthetic-mbu/model.safetensors")
    """Packed network, or the run directory that holds it."""

    out: Path = Path("predictions")
    """Folder for NAME.mask.png and NAME.overlay.png; of a frame, NAME/000007.mask.png."""

    overwrite: bool = False
    """Do again what is done; otherwise no file that exists is replaced: pictures whose results all
    exist are skipped, and of others those that are missing are written."""

    image_size: tuple[int, int] | Literal["own"] | None = None
    """Height and width for the network, or the image's own; by default as the run was trained."""

    flips: bool = False
    """Average over the image and its mirror images, which takes four times the work."""

    implementation: str | None = None
    """Engine; by default the best that the device has."""

    tiling: TilingOptions = TilingOptions()
    objects: InstanceOptions = InstanceOptions()


@dataclasses.dataclass(frozen=True)
class Item:
    """A file to segment, and the start of its results' names."""

    source: Path
    base: Path


@dataclasses.dataclass
class _Job:
    """A frame on its way through the network."""

    item: Item
    base: Path
    image: np.ndarray


class Predictor:
    """Segments files one after another and writes what belongs to each.

    Args:
      params: the network.
      options: of the command.
      image_size: height and width for the network, or None for the images' own.
    """

    def __init__(
        self, params: PackedUNet, options: PredictConfig, image_size: tuple[int, int] | None
    ) -> None:
        self.options = options
        self.failures: dict[Path, str] = {}
        self.written = self.skipped = self.kept = 0
        self._params = params
        self._size = image_size
        self._jobs: deque[_Job] = deque()

    def run(self, items: Sequence[Item]) -> None:
        """Segment all files; those that cannot be are left in ``failures``.

        Args:
          items: the files.

        Raises:
          InputError: for an option that does not fit, or an output folder that cannot be.
          OSError: if the disk is full.
        """
        options = self.options
        self._label(np.zeros((1, 1), np.uint8))  # checks the options before the first image
        todo = [item for item in items if options.overwrite or not self._done(item.base)]
        self.skipped += len(items) - len(todo)
        with tqdm(total=len(todo), desc="segmenting", unit="image", disable=None) as bar:
            results = predict(
                self._params,
                self._pixels(todo, bar),
                **dataclasses.asdict(options.tiling),
                flips=options.flips,
                implementation=options.implementation,
                return_logits=True,
            )
            command.make_folder(options.out)
            for logits in results:
                job = self._jobs.popleft()
                try:
                    self._write(job, logits)
                    self.written += 1
                except InputError as error:
                    self._fail(job.item, error)
                bar.update()

    def _pixels(self, items: Sequence[Item], bar: tqdm) -> Iterator[np.ndarray]:
        """Images for the network; each has a job in the queue by the time it is yielded."""
        for item in items:
            try:
                frames = read_frames(item.source)
                if frames.count != 1 and bar.total is not None:
                    bar.total = None if frames.count is None else bar.total + frames.count - 1
                for base, image in self._wanted(item, frames):
                    self._jobs.append(_Job(item, base, image))
                    yield network_input(image, self._size, self._params.config.in_channels)
            except InputError as error:
                self._fail(item, error)
                bar.update()

    def _wanted(self, item: Item, frames: Frames) -> Iterator[tuple[Path, np.ndarray]]:
        if frames.count == 1:
            yield item.base, next(frames.images)
            return
        for index, image in enumerate(frames.images):
            base = item.base / f"{index:06d}"
            if self.options.overwrite or not self._done(base):
                yield base, image
            else:
                self.skipped += 1

    def _write(self, job: _Job, logits: np.ndarray) -> None:
        mask = mask_of_size(logits, job.image.shape[:2])
        contents: dict[str, bytes] = {}
        labels = None
        if self.options.objects.instances:
            labels = self._label(mask)
            if labels.dtype != np.uint16:
                raise InputError(
                    f"{job.item.source} shows {labels.max()} objects, more than 16 bits can "
                    "number; choose a larger min_size or cut the image"
                )
            contents[_INSTANCES] = _png(Image.fromarray(labels))
        contents[_OVERLAY] = _png(Image.fromarray(draw_overlay(job.image, mask, labels)))
        contents[_MASK] = _png(mask_picture(mask))
        # Longer names first, so that where one is too long nothing is written.
        for suffix, content in contents.items():
            path = _with(job.base, suffix)
            if os.path.lexists(path) and not self.options.overwrite:
                self.kept += 1
                continue
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes_atomic(path, content)
            except OSError as error:
                if command.disk_full(error) is not None:
                    raise
                raise InputError(
                    f"{path} of {job.item.source} cannot be written ({error.strerror}); mend that, "
                    "or choose another --out"
                ) from error

    def _label(self, mask: np.ndarray) -> np.ndarray:
        objects = self.options.objects
        return label_instances(
            mask,
            min_distance=objects.min_distance,
            smoothing=objects.smoothing,
            min_size=objects.min_size,
        )

    def _done(self, base: Path) -> bool:
        suffixes = [_MASK, _OVERLAY, *([_INSTANCES] if self.options.objects.instances else [])]
        # Unlike Path.exists it says of a name that is too long that there is no such file.
        return all(os.path.lexists(_with(base, suffix)) for suffix in suffixes)

    def _fail(self, item: Item, error: InputError) -> None:
        self.failures[item.source] = " ".join(str(error).split())


def network_input(image: np.ndarray, size: tuple[int, int] | None, channels: int) -> np.ndarray:
    """Make of a picture what a network is to see.

    Args:
      image: uint8 [H, W, 3].
      size: height and width for the network, or None for the picture's own.
      channels: 3, or 1 for grey.

    Returns:
      uint8 [h, w, channels].
    """
    if size is not None:
        image = scale_image(image, size)
    if channels == 1:
        image = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    return image


def mask_of_size(logits: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Choose classes at a picture's own size: scaling logits, not masks, keeps outlines smooth.

    Args:
      logits: float32 [h, w, classes].
      size: (H, W) of the picture.

    Returns:
      uint8 [H, W] class indices.
    """
    if logits.shape[:2] != size:
        height, width = size
        planes = [
            Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
            for plane in np.moveaxis(logits, -1, 0)
        ]
        logits = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    return logits_to_mask(logits)


def find_items(inputs: Sequence[str], out: Path) -> list[Item]:
    """List the files that the arguments name, and where their results go.

    Args:
      inputs: files, folders and patterns.
      out: folder for the results; results of an earlier run in it are no inputs, but for a file
        that is named itself without the picture it belongs to.

    Returns:
      The files of each argument in alphabetical order, none twice.

    Raises:
      InputError: if there is nothing to do, or two files would write the same results.

    Example:
      >>> Image.new("L", (3, 2)).save("a.png")
      >>> find_items(["a.png"], Path("masks"))
      [Item(source=PosixPath('a.png'), base=PosixPath('masks/a'))]
    """
    if not inputs:
        raise InputError("no input given; name images, folders or videos (--help explains)")
    named = [Item(source, out / name) for text in inputs for source, name in _files(text, out)]
    bases = {item.base for item in named}
    found: dict[Path, Item] = {}
    for item in named:
        # A shell makes names of *.png, also of results that lie beside their pictures.
        if _is_result_of(item.source, bases, out):
            continue
        other = found.setdefault(item.base, item)
        if other.source.resolve() != item.source.resolve():
            raise InputError(
                f"{other.source} and {item.source} would both write {_with(item.base, _MASK)}; "
                "rename one, or choose another --out for it"
            )
    for base, item in found.items():
        animated = found.get(base.parent)
        if animated is not None and _FRAME_NAME.fullmatch(base.name):
            raise InputError(
                f"{item.source} and a frame of {animated.source} could both write "
                f"{_with(base, _MASK)}; choose another --out for one"
            )
    return list(found.values())


def _files(text: str, out: Path) -> Iterator[tuple[Path, Path]]:
    """Files that one argument names, each with its results' name inside the output folder."""
    path = Path(text).expanduser()
    if path.is_dir():
        root, candidates = path, path.rglob("*")
    elif path.exists():
        yield path, Path(path.stem)
        return
    elif _WILDCARDS.search(text):
        fixed = [p for p in path.parts[: _first_wildcard(path)] if p]
        root = Path(*fixed)
        candidates = root.glob(str(path.relative_to(root)))
    else:
        raise InputError(f"{text} does not exist; name an image, a folder or a video")
    kinds = PICTURE_SUFFIXES | VIDEO_SUFFIXES
    files = sorted(p for p in candidates if p.suffix.lower() in kinds and p.is_file())
    files = [p for p in files if not (_is_result(p, out) or _is_hidden(p.relative_to(root)))]
    if not files:
        raise InputError(f"{text} holds no picture or video (PNG, JPEG, GIF, TIFF, BMP, MP4 …)")
    for file in files:
        yield file, file.relative_to(root).with_suffix("")


def _first_wildcard(path: Path) -> int:
    return next(i for i, part in enumerate(path.parts) if _WILDCARDS.search(part))


def _is_hidden(path: Path) -> bool:
    """Such as the ``._name`` that a Mac puts beside every file it copies."""
    return any(part.startswith(".") for part in path.parts)


def _is_result(path: Path, out: Path) -> bool:
    ours = path.name.endswith((_MASK, _OVERLAY, _INSTANCES))
    return ours and path.resolve().is_relative_to(out.resolve())


def _is_result_of(path: Path, bases: Collection[Path], out: Path) -> bool:
    """Whether it is a result of a picture among these, or of one of its frames."""
    if not _is_result(path, out):
        return False
    stem, _, _ = path.name.rsplit(".", 2)
    base = out / path.resolve().relative_to(out.resolve()).parent / stem
    return base in bases or (base.parent in bases and bool(_FRAME_NAME.fullmatch(stem)))


def _with(base: Path, suffix: str) -> Path:
    return base.parent / (base.name + suffix)


def mask_picture(mask: np.ndarray) -> Image.Image:
    """Put class numbers under a palette: numbers to a program, colours to the eye.

    Args:
      mask: uint8 [H, W] class indices.

    Returns:
      A picture with a palette.
    """
    picture = Image.fromarray(mask)
    further = CLASS_COLOURS[1 + np.arange(255) % (len(CLASS_COLOURS) - 1)]
    picture.putpalette(np.concatenate([CLASS_COLOURS[:1], further]).tobytes())
    return picture


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def main() -> None:
    """Parse the command line, segment, and say what was done; exit with 1 if a file failed."""
    options = command.parse(PredictConfig, {"default": PredictConfig()})
    items = find_items(options.inputs, options.out)
    model = model_file(options.model)
    params = load_for_pictures(model)
    predictor = Predictor(params, options, network_size(options.image_size, params))
    predictor.run(items)
    parts = [f"{predictor.written} segmented"]
    if predictor.skipped:
        parts.append(f"{predictor.skipped} already done (--overwrite does them again)")
    if predictor.kept:
        parts.append(f"{predictor.kept} existing files kept (--overwrite replaces them)")
    print(f"{', '.join(parts)}; results are in {options.out}")
    if predictor.failures:
        print(f"error: {len(predictor.failures)} of {len(items)} files failed:", file=sys.stderr)
        for reason in predictor.failures.values():
            print(f"  {reason}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    command.run(main)
