"""Which files of a user's folder belong together."""

import dataclasses
import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from mbu_jax.data.archives import Entry, list_folder
from mbu_jax.data.builder import Record
from mbu_jax.data.frames import PICTURE_SUFFIXES
from mbu_jax.data.splits import SPLITS, VALIDATION_FRACTION, Split, split_fraction
from mbu_jax.errors import InputError

IMAGES, MASKS, INSTANCES = "images", "masks", "instances"
LAYOUT = (
    f"give a folder with {IMAGES}/ and {MASKS}/ (or {INSTANCES}/), or with train/ and validation/"
    " that hold these"
)

_KINDS = "PNG, TIFF, JPEG, GIF, BMP"
_OF_DESKTOPS = frozenset(("thumbs.db", "desktop.ini"))
_DEPTH = 8
_SIDES = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))


def find_records(data_dir: Path) -> list[Record]:
    """Pairs every image of a folder with the mask of the same name.

    Args:
      data_dir: the folder: ``images/`` beside ``masks/`` (class numbers) or ``instances/`` (object
        numbers), or ``train/`` and ``validation/`` with these in each. Sub-folders of ``images/``
        recur among the masks; there they keep images together and may not be called ``train``,
        ``val`` or the like, as if they split them.

    Returns:
      The records in the order of their ids: the image's path without ``images/`` and its ending.

    Raises:
      InputError: the folder is not laid out so, or a file has no partner; the message names it.
    """
    if not data_dir.is_dir():
        what = "is no folder" if data_dir.exists() else "does not exist"
        raise InputError(f"{data_dir} {what}; {LAYOUT}")
    parts = [split for split in SPLITS if (data_dir / split).is_dir()]
    if not parts:
        _check_sub_folders(data_dir / IMAGES)
        return sorted(_pairs(data_dir, ""), key=lambda record: record.id)
    if len(parts) == 1:
        missing = next(split for split in SPLITS if split not in parts)
        raise InputError(
            f"{data_dir} has {parts[0]}/ but no {missing}/ (it holds {_contents(data_dir)});"
            f" {LAYOUT}"
        )
    if (data_dir / IMAGES).is_dir():
        raise InputError(
            f"{data_dir} has both {IMAGES}/ and train/; keep one of the two, so that it is clear"
            " which images to train on"
        )
    records = [record for split in SPLITS for record in _pairs(data_dir / split, f"{split}/")]
    truths = {has_instances(record) for record in records}
    if len(truths) > 1:
        raise InputError(
            f"{data_dir} has {MASKS}/ in one of train/ and validation/ and {INSTANCES}/ in the"
            " other; name both alike"
        )
    return sorted(records, key=lambda record: record.id)


def has_instances(record: Record) -> bool:
    """Tells whether a record's mask numbers objects rather than classes.

    Args:
      record: one of ``find_records``.

    Returns:
      Whether it lies in ``instances/``.
    """
    parts = PurePosixPath(record.masks[0].name).parts
    return parts[1 if parts[0] in SPLITS else 0] == INSTANCES


def split_rule(records: Sequence[Record]) -> Literal["folders", "names"]:
    """Tells what decides which images are for validation.

    Args:
      records: of ``find_records``.

    Returns:
      folders where the user has made ``train/`` and ``validation/``, else names.
    """
    return "folders" if PurePosixPath(records[0].image.name).parts[0] in SPLITS else "names"


def split_records(records: Sequence[Record]) -> dict[Split, list[Record]]:
    """Parts records into training and validation.

    Without ``train/`` and ``validation/`` the hash of the name decides, as in `split_of`; of
    images in a sub-folder the sub-folder's, so that one slide or patient is never on both sides.
    Should all fall on one side, the other gets the name whose hash comes next.

    Args:
      records: of ``find_records``.

    Returns:
      The records of each split, in their order. One is empty where there is but one name.
    """
    if split_rule(records) == "folders":
        side = {r.id: PurePosixPath(r.image.name).parts[0] for r in records}
    else:
        group = {r.id: r.id.partition("/")[0] for r in records}
        ranked = sorted(set(group.values()), key=lambda name: (split_fraction(name), name))
        held_out = sum(split_fraction(name) < VALIDATION_FRACTION for name in ranked)
        if len(ranked) > 1:
            held_out = min(max(held_out, 1), len(ranked) - 1)
        validation = set(ranked[:held_out])
        side = {i: "validation" if name in validation else "train" for i, name in group.items()}
    return {split: [r for r in records if side[r.id] == split] for split in SPLITS}


def _check_sub_folders(images: Path) -> None:
    """Refuses a split that would not be kept: a hash of the names decides here."""
    inside = sorted(images.iterdir()) if images.is_dir() else ()
    sides = [f"{p.name}/" for p in inside if p.name.lower() in _SIDES and p.is_dir()]
    if sides:
        raise InputError(
            f"{images} holds {_listed(sides)}, but sub-folders of {IMAGES}/ do not decide what is"
            f" trained on; {LAYOUT}"
        )


def _pairs(folder: Path, prefix: str) -> list[Record]:
    truths = [name for name in (MASKS, INSTANCES) if (folder / name).is_dir()]
    if not (folder / IMAGES).is_dir() or not truths:
        missing = f"no {IMAGES}/" if truths else f"neither {MASKS}/ nor {INSTANCES}/"
        raise InputError(f"{folder} has {missing} (it holds {_contents(folder)}); {LAYOUT}")
    if len(truths) > 1:
        raise InputError(
            f"{folder} has both {MASKS}/ and {INSTANCES}/; move the one away that is not to be used"
        )
    images = _by_stem(folder, IMAGES, prefix)
    masks = _by_stem(folder, truths[0], prefix)
    if not images:
        raise InputError(f"{folder / IMAGES} holds no image; put pictures there ({_KINDS})")
    records = []
    for stem, image in images.items():
        if stem not in masks:
            raise InputError(
                f"{image.label} has no mask {truths[0]}/{stem}.*{_hint(stem, masks)}; add the mask"
                " or remove the image"
            )
        records.append(Record(prefix + stem, image, (masks[stem],)))
    for stem, mask in masks.items():
        if stem not in images:
            raise InputError(
                f"{mask.label} has no image {IMAGES}/{stem}.*{_hint(stem, images)}; add the image"
                " or remove the mask"
            )
    return records


def _by_stem(folder: Path, kind: str, prefix: str) -> dict[str, Entry]:
    """The pictures below a folder by path without ending, in order."""
    found: dict[str, Entry] = {}
    for entry in list_folder(folder / kind, _DEPTH):
        path = PurePosixPath(entry.name)
        if path.name.lower() in _OF_DESKTOPS:
            continue
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            raise InputError(
                f"{entry.label} is of no kind that is read ({_KINDS}); export it as TIFF or PNG,"
                f" or move it out of {kind}/"
            )
        # What one system calls é is two characters to another.
        stem = unicodedata.normalize("NFC", path.with_suffix("").as_posix())
        try:
            stem.encode()
        except UnicodeEncodeError as error:
            label = entry.label.encode(errors="replace").decode()
            raise InputError(f"the name {label} is no UTF-8; rename the file") from error
        if stem in found:
            raise InputError(
                f"{found[stem].label} and {entry.label} have the same name but for the ending;"
                " rename or remove one"
            )
        found[stem] = dataclasses.replace(entry, name=f"{prefix}{kind}/{entry.name}")
    return found


def _hint(stem: str, others: Mapping[str, Entry]) -> str:
    """Names a partner's likely file: most often it has an ending such as _mask."""
    alike = [o for o in others if stem and (o.startswith(stem) or stem.startswith(o))]
    close = alike[:1] or difflib.get_close_matches(stem, list(others)[:10_000], n=1)
    return f" (is it {others[close[0]].name}? names must be equal)" if close else ""


def _contents(folder: Path) -> str:
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir() if p.name[0] != ".")
    return _listed(names) or "nothing"


def _listed(names: Iterable[str], most: int = 4) -> str:
    shown = list(names)
    return ", ".join(shown[:most]) + (", …" if len(shown) > most else "")
