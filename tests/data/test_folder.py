"""A user's own folder: what may lie in it, what is made of it, and what is refused in one line."""

import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbu_jax.data import open_source, split_of
from mbu_jax.data.archives import Entry
from mbu_jax.data.builder import Record, SegmentationBuilder
from mbu_jax.data.folder.folder_dataset_builder import Builder
from mbu_jax.data.folder.layout import find_records, split_records
from mbu_jax.data.frames import read_frames
from mbu_jax.errors import InputError
from tests.data.own_folder import RNG, labels, noise, opened, pair, refusal, save


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six images with masks of 0 and 255."""
    for name in "abcdef":
        pair(tmp_path / "cells", name)
    return tmp_path / "cells"


def test_examples_are_what_the_files_hold(tmp_path):
    root = tmp_path / "cells"
    size = (12, 20)
    grey, deep = noise(*size)[..., 0], RNG.integers(0, 4096, size).astype(np.uint16)
    colour = noise(5, 30)
    truths = {name: labels(1, *size) for name in ("deep", "grey")} | {"rgba": labels(1, 5, 30)}
    save(root / "images" / "grey.bmp", grey)
    save(root / "images" / "deep.TIFF", deep)
    save(root / "images" / "rgba.png", np.dstack([colour, noise(5, 30)[..., :1]]))
    save(root / "masks" / "grey.png", truths["grey"].astype(bool))
    save(root / "masks" / "deep.tif", truths["deep"].astype(np.uint16))
    save(root / "masks" / "rgba.gif", truths["rgba"].astype(np.uint8))
    source = opened(root)
    assert source.ids == ["deep", "grey", "rgba"]
    assert source.classes == 1
    found = {example["id"]: example for example in source}
    for name, truth in truths.items():
        np.testing.assert_array_equal(found[name]["mask"], truth)
        assert found[name]["mask"].dtype == found[name]["image"].dtype == np.uint8
        assert found[name]["image"].shape == (*truth.shape, 3)
    np.testing.assert_array_equal(found["rgba"]["image"], colour)
    np.testing.assert_array_equal(found["grey"]["image"], np.dstack([grey] * 3))
    full = next(2**b - 1 for b in (8, 10, 12) if deep.max() < 2**b)
    np.testing.assert_array_equal(found["deep"]["image"][..., 1], np.rint(deep * (255 / full)))


def test_images_are_read_as_for_prediction(root):
    path = root / "images" / "a.tif"
    (root / "images" / "a.png").unlink()
    save(path, RNG.integers(0, 30_000, (9, 7)).astype(np.uint16))
    np.testing.assert_array_equal(opened(root)[0]["image"], next(read_frames(path).images))


@pytest.mark.parametrize("white", [1, 255])
def test_objects_are_one_class(tmp_path, white):
    truths = [labels(1) for _ in range(4)]
    for i, truth in enumerate(truths):
        pair(tmp_path / "cells", f"{i}", (truth * white).astype(np.uint8))
    source = opened(tmp_path / "cells")
    assert source.classes == 1
    np.testing.assert_array_equal([example["mask"] for example in source], truths)


def test_class_numbers_are_several_classes(tmp_path):
    most = int(RNG.integers(2, 9))
    truths = [labels(most) for _ in range(3)]
    for i, truth in enumerate(truths):
        pair(tmp_path / "cells", f"{i}", truth.astype(np.uint8))
    source = opened(tmp_path / "cells")
    assert source.classes == source.facts["classes"] == most + 1
    np.testing.assert_array_equal([example["mask"] for example in source], truths)
    other = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(other[1]["mask"], truths[1])
    assert (other.classes, other.ids) == (source.classes, source.ids)


def test_label_images_are_objects_told_apart(tmp_path):
    truths = [RNG.integers(0, 60_000, (9, 7)).astype(np.uint16) for _ in range(3)]
    for i, truth in enumerate(truths):
        truth.flat[0] = 0
        pair(tmp_path / "cells", f"{i}", truth, kind="instances")
    source = opened(tmp_path / "cells")
    assert source.classes == 1
    for example, truth in zip(source, truths, strict=True):
        np.testing.assert_array_equal(example["instances"], truth)
        np.testing.assert_array_equal(example["mask"], truth != 0)


def test_a_sub_folder_may_be_called_instances(tmp_path):
    for i in range(3):
        pair(tmp_path / "cells", f"instances/{i}", labels(2).astype(np.uint8))
    source = opened(tmp_path / "cells")
    assert source.classes == 3
    assert "instances" not in source[0]


def test_a_second_opening_does_not_read_the_files_again(root, monkeypatch):
    first = opened(root)[2]
    monkeypatch.setattr("mbu_jax.data.folder.folder_dataset_builder.Builder.read", None)
    np.testing.assert_array_equal(opened(root)[2]["image"], first["image"])


def test_a_copy_by_an_older_reading_is_made_anew(root, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(Builder, "VERSION", SegmentationBuilder.VERSION)
        opened(root)
    monkeypatch.setattr(Builder, "read", None)
    with pytest.raises(TypeError):
        opened(root)


def test_large_images_are_read_whatever_pillow_s_limit(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert [example["mask"].size for example in opened(root)] == [63] * 6


def test_names_decide_the_split(tmp_path):
    root = tmp_path / "cells"
    for name in range(12):
        pair(root, f"{name}")
    sides = {split: opened(root, split).ids for split in ("train", "validation")}
    assert sides["validation"] == [i for i in opened(root).ids if split_of(i) == "validation"]
    assert sorted([*sides["train"], *sides["validation"]]) == opened(root).ids
    facts = opened(root, "train").facts
    assert facts["split_by"] == "names"
    assert facts["images"] == {side: len(ids) for side, ids in sides.items()}


def some_records(*stems: str) -> list[Record]:
    def entry(name: str) -> Entry:
        return Entry(name, name, 1, 1, bytes)

    return [Record(s, entry(f"images/{s}.png"), (entry(f"masks/{s}.png"),)) for s in stems]


@pytest.mark.parametrize("count", range(2, 30))
def test_neither_side_is_empty(count):
    names = [f"{RNG.integers(2**40)}-{i}" for i in range(count)]
    sides = split_records(some_records(*names))
    assert min(map(len, sides.values())) >= 1
    by_hash = [name for name in names if split_of(name) == "validation"]
    found = [record.id for record in sides["validation"]]
    if 0 < len(by_hash) < count:
        assert found == by_hash


def test_a_sub_folder_is_never_torn_apart():
    stems = [f"slide-{s}/{i}" for s in RNG.integers(0, 2**40, 9).tolist() for i in range(5)]
    sides = split_records(some_records(*stems))
    slides = {side: {r.id.split("/")[0] for r in records} for side, records in sides.items()}
    assert not slides["train"] & slides["validation"]
    assert sum(map(len, sides.values())) == len(stems)


def test_the_user_may_split(tmp_path):
    root = tmp_path / "cells"
    for side, names in (("train", "abc"), ("validation", "ad")):
        for name in names:
            pair(root / side, f"slide/{name}")
    assert opened(root, "train").ids == [f"train/slide/{n}" for n in "abc"]
    assert opened(root, "validation").ids == [f"validation/slide/{n}" for n in "ad"]
    assert opened(root).facts["split_by"] == "folders"


@pytest.mark.parametrize("sides", [("train", "val"), ("Training", "Validation"), ("TEST",)])
def test_a_split_inside_images_is_told(root, sides):
    for side in sides:
        pair(root, f"{side}/g")
    assert refusal(root).endswith(
        f"cells/images holds {', '.join(f'{side}/' for side in sides)}, but sub-folders of images/"
        " do not decide what is trained on; give a folder with images/ and masks/ (or instances/),"
        " or with train/ and validation/ that hold these"
    )


def test_sub_folders_of_sides_may_have_any_name(tmp_path):
    root = tmp_path / "cells"
    for side in ("train", "validation"):
        pair(root / side, "test/a")
    pair(root.parent / "flat", "slide/train/a")
    pair(root.parent / "flat", "testament/a")
    assert opened(root).ids == ["train/test/a", "validation/test/a"]
    assert opened(root.parent / "flat").ids == ["slide/train/a", "testament/a"]


def test_content_names_the_data(root):
    before = opened(root).facts
    moved = Path(shutil.copytree(root, root.parent / "moved", copy_function=shutil.copy))
    assert opened(moved).facts == before
    pair(moved, "a")
    after = dict(opened(moved).facts)
    assert after.pop("content") != before["content"]
    assert after == {key: before[key] for key in after}


def test_a_network_s_classes_are_asked_of_other_data(tmp_path):
    few, many = labels(1), labels(3)
    many[many == 2] = 0
    pair(tmp_path / "few", "a", few.astype(np.uint8))
    pair(tmp_path / "gap", "a", many.astype(np.uint8))
    pair(tmp_path / "white", "a", (few * 255).astype(np.uint8))
    assert (opened(tmp_path / "few", classes=4)[0]["mask"] == few).all()
    assert (opened(tmp_path / "gap", classes=4)[0]["mask"] == many).all()
    assert (opened(tmp_path / "white", classes=1)[0]["mask"] == few).all()
    assert "masks/a.png has the value 3, but the network's masks hold 0 to 2;" in refusal(
        tmp_path / "gap", classes=3
    )
    assert "a.png has the value 255, but the network's masks hold 0 to 3;" in refusal(
        tmp_path / "white", classes=4
    )
    with pytest.raises(InputError, match="nuclei has one class of objects, not 4 classes"):
        open_source("nuclei", "all", data_dir=tmp_path, classes=4)


def _bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 2**16, 2**16, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(2**16))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def _rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / old).rename(root / new)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no mask": (lambda r: (r / "masks/c.png").unlink(), "images/c.png has no mask masks/c.*;"),
    "mask of another name": (
        _rename("masks/c.png", "masks/c_mask.png"),
        "images/c.png has no mask masks/c.* (is it masks/c_mask.png? names must be equal);",
    ),
    "no image": (lambda r: (r / "images/c.png").unlink(), "masks/c.png has no image images/c.*;"),
    "sizes differ": (
        lambda r: save(r / "masks/c.png", np.zeros((4, 5), np.uint8)),
        "masks/c.png is 5x4 but its image is 7x9;",
    ),
    "image cut short": (
        lambda r: (r / "images/c.png").write_bytes((r / "images/c.png").read_bytes()[:60]),
        "images/c.png is a damaged PNG (truncated);",
    ),
    "mask is text": (
        lambda r: (r / "masks/c.png").write_text("not a picture"),
        "masks/c.png is not a PNG, JPEG, GIF or BMP file;",
    ),
    "decompression bomb": (
        lambda r: (r / "images/c.png").write_bytes(_bomb()),
        "images/c.png says it has 65536x65536 pixels, outside",
    ),
    "bomb as a mask": (
        lambda r: (r / "masks/c.png").write_bytes(_bomb()),
        "masks/c.png says it has 65536x65536 pixels, outside",
    ),
    "two images of one name": (
        lambda r: save(r / "images/c.tif", noise()),
        "images/c.tif have the same name but for the ending;",
    ),
    "another kind of file": (
        lambda r: (r / "images/c.czi").write_text("ZISRAWFILE"),
        "images/c.czi is of no kind that is read (PNG, TIFF, JPEG, GIF, BMP); export it",
    ),
    "JPEG mask": (
        lambda r: (
            (r / "masks/c.png").unlink(),
            save(r / "masks/c.jpg", labels(1).astype(np.uint8)),
        ),
        "masks/c.jpg is a JPEG, which changes the numbers in a mask; save it as PNG",
    ),
    "mask in colours": (
        lambda r: save(r / "masks/c.png", noise()),
        "masks/c.png is in colours; save it with one number a pixel",
    ),
    "object numbers in masks": (
        lambda r: save(r / "masks/c.png", (labels(1) * 300).astype(np.uint16)),
        "masks/c.png has the value 300; number the classes",
    ),
    "too many classes": (
        lambda r: save(r / "masks/c.png", (labels(1) * 200).astype(np.uint8)),
        "use 0 and 255 alone, or number the classes",
    ),
    "fractions": (
        lambda r: (
            (r / "masks/c.png").unlink(),
            save(r / "masks/c.tif", (labels(1) / 2).astype(np.float32)),
        ),
        "masks/c.tif has values from 0.0 to 0.5; save it as 8-bit or 16-bit whole numbers",
    ),
    "stack": (
        lambda r: (
            (r / "images/c.png").unlink(),
            Image.fromarray(noise()).save(
                r / "images/c.tif", save_all=True, append_images=[Image.fromarray(noise())]
            ),
        ),
        "images/c.tif holds 2 pictures; save each as a file of its own",
    ),
    "no images": (lambda r: shutil.rmtree(r / "images"), "cells has no images/ (it holds masks/);"),
    "empty": (
        lambda r: (shutil.rmtree(r / "images"), (r / "images").mkdir()),
        "cells/images holds no image; put pictures there",
    ),
    "other names": (
        _rename("masks", "labels"),
        "cells has neither masks/ nor instances/ (it holds images/, labels/);",
    ),
    "both kinds of masks": (
        lambda r: (r / "instances").mkdir(),
        "cells has both masks/ and instances/; move the one away",
    ),
    "no validation": (
        lambda r: (r / "train").mkdir(),
        "cells has train/ but no validation/ (it holds images/, masks/, train/);",
    ),
    "two layouts": (
        lambda r: [(r / side).mkdir() for side in ("train", "validation")],
        "cells has both images/ and train/; keep one of the two",
    ),
    "nothing": (shutil.rmtree, "cells does not exist; give a folder with images/ and masks/"),
    "a file": (
        lambda r: (shutil.rmtree(r), r.write_text("")),
        "cells is no folder; give a folder with images/ and masks/",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_in_one_line_and_leave_nothing(root, fault):
    damage, said = FAULTS[fault]
    damage(root)
    assert said in refusal(root)
    prepared = root.parent / "prepared"
    if fault != "too many classes":  # numbers are judged once all are known, and prepared
        assert not [path for path in prepared.rglob("*") if path.is_file()]


def test_names_that_are_no_utf_8_are_told(root):
    try:
        (root / "images" / os.fsdecode(b"caf\xe9.png")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert "caf?.png is no UTF-8; rename the file" in refusal(root)


def test_desktops_leave_files_that_do_no_harm(root):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "images" / name).write_text("")
    assert len(opened(root)) == 6


def test_one_picture_on_both_sides_is_told(tmp_path):
    for side in ("train", "validation"):
        pair(tmp_path / "cells" / side, side)
    save(tmp_path / "cells/validation/images/validation.png", noise())
    assert len(opened(tmp_path / "cells")) == 2
    shutil.copy(
        tmp_path / "cells/train/images/train.png",
        tmp_path / "cells/validation/images/validation.png",
    )
    assert "validation.png are the same picture, one for training" in refusal(tmp_path / "cells")
    for side in ("train", "validation"):  # an empty field of view gives nothing away
        save(tmp_path / "cells" / side / "images" / f"{side}.png", np.zeros((9, 7), np.uint8))
    assert len(opened(tmp_path / "cells")) == 2


def test_one_image_can_be_scored_but_not_trained_on(tmp_path):
    pair(tmp_path / "cells", "a")
    assert len(opened(tmp_path / "cells")) == 1
    messages = []
    for split in ("train", "validation"):
        try:
            opened(tmp_path / "cells", split)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) == 1
    assert "split is empty: only 1 images; add more" in messages[0]


def test_a_folder_must_be_named():
    with pytest.raises(InputError, match="the dataset folder needs --data-dir; give a folder"):
        open_source("folder", "train")


def test_files_pair_by_name_in_order(root):
    records = find_records(root)
    assert [record.id for record in records] == list("abcdef")
    assert [record.masks[0].name for record in records] == [f"masks/{n}.png" for n in "abcdef"]
