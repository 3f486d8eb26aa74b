"""Opening datasets: where they may lie, what is refused, and that nothing is left half-done."""

import errno
import http.server
import io
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbu_jax.data import DATASETS, open_source, split_of
from mbu_jax.data.archives import MAX_FILE_BYTES, Entry
from mbu_jax.data.builder import SegmentationBuilder
from mbu_jax.data.nuclei import nuclei_dataset_builder
from mbu_jax.data.nuclei.nuclei_dataset_builder import Builder
from mbu_jax.errors import InputError

DUMMY = Path(nuclei_dataset_builder.__file__).parent / "dummy_data"
IDS = sorted(folder.name for folder in (DUMMY / "stage1_train").iterdir())


def _zip(source: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(source.rglob("*.png")):
            archive.write(path, prefix + path.relative_to(source).as_posix())
        archive.writestr("__MACOSX/" + IDS[0] + "/images/._a.png", b"resource fork")
    return target


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A copy of the dummy nuclei that a test may damage."""
    return Path(shutil.copytree(DUMMY / "stage1_train", tmp_path / "unpacked"))


def _open(data_dir: Path, split: str = "all"):
    return open_source(
        "nuclei", split, data_dir=data_dir, prepared_dir=data_dir.parent / "prepared"
    )


def _is_clean(prepared_dir: Path) -> bool:
    return not [path for path in prepared_dir.rglob("*") if path.is_file()]


def _save(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array).save(path)


def _first(folder: Path, kind: str) -> Path:
    return min((folder / IDS[0] / kind).iterdir())


def test_every_place_gives_the_same_examples(tmp_path, unpacked):
    archive_folder = tmp_path / "archive"
    archive_folder.mkdir()
    archive = _zip(unpacked, archive_folder / "stage1_train.zip")
    nested = _zip(unpacked, tmp_path / "other name.zip", prefix="some/folder/")
    parent = Path(shutil.copytree(DUMMY, tmp_path / "parent"))
    places = (unpacked, parent, parent / "stage1_train", archive_folder, archive, nested)
    sources = [_open(place) for place in places]
    for source in sources:
        assert source.ids == IDS
        for one, other in zip(source, sources[0], strict=True):
            assert one.keys() == other.keys() == {"id", "image", "mask", "instances"}
            for key in ("image", "mask", "instances"):
                np.testing.assert_array_equal(one[key], other[key])


def test_a_second_opening_does_not_prepare_again(tmp_path, unpacked, monkeypatch):
    first = _open(unpacked)[2]
    monkeypatch.setattr(Builder, "read", None)
    second = _open(unpacked)[2]
    np.testing.assert_array_equal(first["image"], second["image"])


def test_another_source_of_the_same_layout_is_another_dataset(tmp_path, unpacked):
    first = _open(unpacked)
    other = Path(shutil.copytree(unpacked, tmp_path / "other"))
    picture = np.asarray(Image.open(io.BytesIO(_first(other, "images").read_bytes())))
    _save(_first(other, "images"), 255 - picture)
    second = _open(other)
    assert second.ids == first.ids
    assert (first[0]["image"] == 255 - second[0]["image"]).all()
    assert len(list((tmp_path / "prepared" / "nuclei").iterdir())) == 2


def test_the_content_has_a_name(tmp_path, unpacked):
    first = _open(unpacked)
    (tmp_path / "elsewhere").mkdir()
    archive = _zip(unpacked, tmp_path / "elsewhere" / "stage1_train.zip")
    assert _open(archive).facts == first.facts  # wherever it lies
    assert _open(unpacked, "train").facts == first.facts
    path = _first(unpacked, "masks")
    mask = np.asarray(Image.open(path)).copy()
    mask[0] ^= 255
    _save(path, mask)
    assert _open(unpacked).facts != first.facts


def test_a_place_that_may_not_be_searched_is_told(unpacked, monkeypatch):
    def denied(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", denied)
    with pytest.raises(InputError, match=r"unpacked cannot be read \(Permission denied\); make it"):
        _open(unpacked)


def test_splits_part_the_ids_and_all_is_in_order(unpacked):
    train, validation, everything = (_open(unpacked, s) for s in ("train", "validation", "all"))
    assert train.ids == [i for i in IDS if split_of(i) == "train"]
    assert validation.ids == [i for i in IDS if split_of(i) == "validation"]
    assert everything.ids == IDS
    assert [example["id"] for example in everything] == IDS
    np.testing.assert_array_equal(
        everything[IDS.index(validation.ids[0])]["image"], validation[0]["image"]
    )


def test_examples_are_contiguous_and_the_caller_s_own(unpacked):
    source = _open(unpacked)
    example = source[0]
    for key in ("image", "mask", "instances"):
        assert example[key].flags.c_contiguous
        assert example[key].flags.writeable
    example["image"][:] = 0
    assert source[0]["image"].any()


def test_indices_behave_like_a_sequence_s(unpacked):
    source = _open(unpacked)
    assert source[-1]["id"] == source[len(source) - 1]["id"] == IDS[-1]
    with pytest.raises(IndexError):
        source[len(source)]


def test_pickles_small_and_reads_the_same_in_another_process(unpacked):
    source = _open(unpacked)
    pickled = pickle.dumps(source)
    assert len(pickled) < 1000
    code = (
        "import pickle, sys, zlib; source = pickle.load(sys.stdin.buffer);"
        "print(len(source), source.ids[1], zlib.crc32(source[1]['image']))"
    )
    output = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True)
    assert output.stderr == b""
    expected = f"{len(source)} {source.ids[1]} {zlib.crc32(source[1]['image'])}\n"
    assert output.stdout.decode() == expected


def test_preparing_shows_a_bar_and_nothing_else(unpacked, capfd):
    _open(unpacked)
    captured = capfd.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.replace("\r", "\n").split("\n") if line]
    assert lines
    assert all(line.startswith("preparing nuclei: ") for line in lines)
    assert f"{len(IDS)}/{len(IDS)}" in lines[-1]


def test_overlapping_pixels_go_to_the_first_mask_and_empty_masks_are_no_nuclei(tmp_path):
    folder = tmp_path / "source" / "one"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    _save(folder / "images" / "one.png", np.zeros((1, 6, 3), np.uint8))
    rows = {"a": "011000", "b": "000000", "c": "001100", "d": "011000", "e": "000011"}
    for name, row in rows.items():
        _save(folder / "masks" / f"{name}.png", np.array([list(row)]).astype(np.uint8) * 255)
    (example,) = _open(tmp_path / "source")
    np.testing.assert_array_equal(example["instances"], [[0, 1, 1, 2, 3, 3]])
    np.testing.assert_array_equal(example["mask"], [[0, 1, 1, 1, 1, 1]])


def test_more_than_65535_instances_are_refused():
    entry = Entry("m", "m", 1, 1, bytes)
    picture = io.BytesIO()
    Image.new("L", (4, 4)).save(picture, "png")
    image = Entry("i", "crowd.png", 1, 1, picture.getvalue)
    record = nuclei_dataset_builder.Record("crowd", image, (entry,) * 65536)
    with pytest.raises(InputError, match=r"^crowd\.png has 65536 masks, more than 65535; cut"):
        Builder.read(record)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def _resize(path: Path) -> None:
    _save(path, np.ones((7, 9), np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: _truncate(_first(root, "images")),
            rf"{IDS[0]}/images/{IDS[0]}\.png is a damaged PNG \(truncated\); copy",
        ),
        (
            lambda root: _flip(_first(root, "masks")),
            rf"{IDS[0]}/masks/\w+\.png is a damaged PNG \(bad CRC in its IDAT chunk\); copy",
        ),
        (
            lambda root: _resize(_first(root, "masks")),
            rf"{IDS[0]}/masks/\w+\.png is 9x7 but its image is 20x20; replace",
        ),
        (
            lambda root: shutil.rmtree(root / IDS[0] / "masks"),
            rf"the image {IDS[0]} has no masks; add PNG files to {IDS[0]}/masks",
        ),
        (
            lambda root: _first(root, "images").unlink(),
            rf"{IDS[0]}/images holds 0 PNG files, not one; leave",
        ),
        (
            lambda root: shutil.copy(_first(root, "images"), root / IDS[0] / "images" / "b.png"),
            rf"{IDS[0]}/images holds 2 PNG files, not one; leave",
        ),
    ],
    ids=["truncated image", "mask CRC", "mask size", "no masks", "no image", "two images"],
)
def test_bad_content_is_told_and_leaves_nothing(unpacked, damage, message):
    damage(unpacked)
    for _ in range(2):  # a failure must not make the next run accept half a dataset
        with pytest.raises(InputError, match=message) as caught:
            _open(unpacked)
        assert "\n" not in str(caught.value)
        assert _is_clean(unpacked.parent / "prepared")


def test_an_interrupted_preparation_is_not_taken_for_a_whole_one(unpacked, monkeypatch):
    def stop(record):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Builder, "read", staticmethod(stop))
        with pytest.raises(KeyboardInterrupt):
            _open(unpacked)
    assert _is_clean(unpacked.parent / "prepared")
    assert len(_open(unpacked)) == len(IDS)


def test_a_damaged_prepared_dataset_is_told(unpacked):
    _open(unpacked)
    prepared = unpacked.parent / "prepared"
    shard = next(prepared.rglob("*validation.array_record*"))
    content = shard.read_bytes()
    metadata = next(prepared.rglob("metadata.json"))
    for damage in (shard.unlink, lambda: shard.write_bytes(content[:50]), metadata.unlink):
        damage()
        with pytest.raises(InputError, match=r"prepared dataset .* is damaged; delete that folder"):
            _open(unpacked)
        shard.write_bytes(content)


def test_two_processes_may_prepare_the_same_dataset_at_once(unpacked, monkeypatch):
    read = Builder.read

    def read_while_another_finishes(record):
        monkeypatch.setattr(Builder, "read", staticmethod(read))
        _open(unpacked)
        return read(record)

    monkeypatch.setattr(Builder, "read", staticmethod(read_while_another_finishes))
    assert len(_open(unpacked)) == len(IDS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, r"source does not exist; give --data-dir stage1_train\.zip"),
        (lambda p: p.mkdir(), r"source holds no <id>/images/\*\.png; give --data-dir"),
        (lambda p: p.write_bytes(b""), r"source is not a complete zip archive"),
        (lambda p: _truncate(_zip(DUMMY, p)), r"source is not a complete zip archive .*; copy or"),
        (
            lambda p: _flip_stored(_zip(DUMMY, p)),
            r"source: stage1_train/.*cannot be read \(Bad CRC",
        ),
        (lambda p: _repeat(_zip(DUMMY, p)), r"source holds stage1_train/.*\.png twice; make"),
        (lambda p: _second_copy(_zip(DUMMY, p)), rf"source has the id {IDS[0]} twice, in"),
    ],
    ids=["missing", "empty folder", "empty", "truncated", "CRC", "repeated name", "duplicate id"],
)
def test_bad_places_and_archives_are_told(tmp_path, make, message):
    place = tmp_path / "source"
    make(place)
    with pytest.raises(InputError, match=message) as caught:
        _open(place)
    assert "\n" not in str(caught.value)
    assert _is_clean(tmp_path / "prepared")


def _flip_stored(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 10] ^= 1
    path.write_bytes(data)


def _repeat(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"again")


def _second_copy(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"elsewhere/{IDS[0]}/images/a.png", b"")


def test_a_file_that_claims_to_be_enormous_is_not_read():
    def load() -> bytes:
        raise AssertionError("read")

    with pytest.raises(InputError, match=r"^big says it has \d+ bytes, more than any image"):
        Entry("big", "big", MAX_FILE_BYTES + 1, 0, load).read()


def test_an_empty_split_is_told(tmp_path, unpacked):
    for example_id in IDS:
        if split_of(example_id) == "validation":
            shutil.rmtree(unpacked / example_id)
    assert len(_open(unpacked, "all")) == len(_open(unpacked, "train")) == 3
    with pytest.raises(
        InputError, match=r"validation split is empty: only 3 images; add more, or use"
    ):
        _open(unpacked, "validation")


def test_a_place_that_cannot_be_written_is_told(tmp_path, unpacked):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file cannot take the prepared dataset .*prepared_dir"):
        open_source("nuclei", "all", data_dir=unpacked, prepared_dir=tmp_path / "file")


def test_a_full_disk_is_told_and_leaves_nothing(unpacked):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))  # stands in for the full disk
    try:
        with pytest.raises(InputError, match=r"cannot take the prepared dataset .*File too large"):
            _open(unpacked)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert _is_clean(unpacked.parent / "prepared")
    assert len(_open(unpacked)) == len(IDS)


def test_the_prepared_place_is_tfds_s_unless_named(tmp_path, unpacked, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "from environment"))
    open_source("nuclei", "all", data_dir=unpacked)
    assert list((tmp_path / "from environment" / "nuclei").glob("*/*/features.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cells", "train"), r"^unknown dataset .cells.; choose one of nuclei, .*, folder, syn"),
        (("nuclei", "test"), r"^unknown split 'test'; choose one of train, validation, all"),
    ],
)
def test_unknown_names_are_told(arguments, message):
    with pytest.raises(InputError, match=message):
        open_source(*arguments)


def test_synthetic_takes_a_seed_and_no_folder(tmp_path):
    assert DATASETS[-1] == "synthetic"
    one, other = (open_source("synthetic", "validation", seed=seed) for seed in (0, 1))
    assert (one[0]["image"] != other[0]["image"]).any()
    with pytest.raises(InputError, match="synthetic dataset is generated; leave out data_dir, or"):
        open_source("synthetic", "train", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "archive"),
    [("carvana", "train.zip"), ("isic", "ISIC2018_Task1-2_Training_Input.zip")],
)
def test_missing_manual_archives_are_told_with_the_instructions(tmp_path, name, archive):
    for arguments in ({}, {"data_dir": tmp_path / "empty"}):
        with pytest.raises(InputError, match=rf"lacks {archive} .*https://.* --data-dir") as caught:
            open_source(name, "train", prepared_dir=tmp_path, **arguments)
        assert "\n" not in str(caught.value)


def test_a_pair_s_faults_are_told(tmp_path):
    dummy = DUMMY.parents[1] / "carvana" / "dummy_data"
    folder = Path(shutil.copytree(dummy, tmp_path / "source"))
    mask = min((folder / "train_masks").iterdir())
    content = mask.read_bytes()

    def failure() -> str:
        with pytest.raises(InputError) as caught:
            open_source("carvana", "all", data_dir=folder, prepared_dir=tmp_path)
        return str(caught.value)

    mask.unlink()
    assert f"has no mask {mask.name} in train_masks; add" in failure()
    Image.new("L", (9, 7)).save(mask, "gif")
    assert "is 9x7 but its image is 48x32; replace" in failure()
    mask.write_bytes(content[:60])
    assert f"{mask.name} will not decode" in failure()
    mask.write_bytes(content)
    assert len(open_source("carvana", "all", data_dir=folder, prepared_dir=tmp_path)) == 4


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server on this machine in the public archive's place; the test writes what it serves."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        cut = 0

        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def copyfile(self, source, outputfile):
            outputfile.write(source.read()[: -self.cut or None])

        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/stage1_train.zip"
        monkeypatch.setattr(nuclei_dataset_builder, "ARCHIVE_URL", url)
        yield folder / "stage1_train.zip", Handler
        server.shutdown()


def test_downloads_once(tmp_path, served):
    archive, _ = served
    _zip(DUMMY / "stage1_train", archive)
    assert open_source("nuclei", "all", prepared_dir=tmp_path / "p").ids == IDS
    archive.unlink()
    assert open_source("nuclei", "all", prepared_dir=tmp_path / "p").ids == IDS
    (kept,) = (tmp_path / "p" / "downloads" / "nuclei").iterdir()
    assert kept.name == archive.name
    (tmp_path / "ordinary").touch()
    assert kept.stat().st_mode == (tmp_path / "ordinary").stat().st_mode  # others may read it


def test_a_failed_download_leaves_nothing(tmp_path, served):
    archive, handler = served

    def failure() -> str:
        with pytest.raises(InputError) as caught:
            open_source("nuclei", "all", prepared_dir=tmp_path / "p")
        assert _is_clean(tmp_path / "p")
        return str(caught.value)

    assert "cannot download http://127" in failure()
    assert "with --data-dir" in failure()
    archive.write_text("<html>please log in</html>")
    assert "is not a complete zip archive" in failure()
    with zipfile.ZipFile(archive, "w") as other:
        other.writestr("cat/images/cat.png", b"")
        other.writestr("cat/masks/cat.png", b"")
    assert "served something else: the id cat is not 64 hex digits" in failure()
    _zip(DUMMY / "stage1_train", archive)
    handler.cut = 100
    assert "bytes arrived" in failure()


def test_no_network_is_told_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(nuclei_dataset_builder, "ARCHIVE_URL", "http://127.0.0.1:9/a.zip")
    with pytest.raises(InputError, match=r"cannot download .*; download stage1_train\.zip by hand"):
        open_source("nuclei", "all", prepared_dir=tmp_path)


def test_builders_need_no_tensorflow():
    assert "tensorflow" not in sys.modules
    assert issubclass(Builder, SegmentationBuilder)
