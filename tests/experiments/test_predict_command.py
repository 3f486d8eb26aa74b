import dataclasses
import errno
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

import mbu_jax
from experiments import command, predict
from experiments.model_file import load_for_pictures
from mbu_jax.data.synthetic.generator import generate_example
from mbu_jax.errors import InputError
from mbu_jax.inference import pack
from mbu_jax.saving import load_packed, save_packed
from mbu_jax.train.rundir import RunDirectory
from mbu_jax.unet import UNetConfig
from tests.random_packed import random_packed
from tests.trained.network import trained_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_packed(path, random_packed(UNetConfig(width=4), seed=1))
    return path


type Program = Callable[..., tuple[int, str, str]]


@pytest.fixture
def program(model: Path, monkeypatch, capsys, tmp_path) -> Program:
    """Runs the command in an empty folder; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        argv = ["predict", "--model", str(model), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)
        code = 0
        try:
            command.run(predict.main)
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        assert isinstance(code, int)
        return code, printed.out, printed.err

    return run


@pytest.fixture
def brightness(monkeypatch) -> None:
    """Instead of the network: an object is where the image is bright."""

    def segment(params, images, **options):
        assert options.pop("return_logits")
        return (image[..., :1].astype(np.float32) - 127.5 for image in images)

    monkeypatch.setattr(predict, "predict", segment)


def draw(path: Path | str, *values: int, size: tuple[int, int] = (24, 16)) -> Path:
    """A picture of a bright square on black, or an animation with a frame for each value."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = []
    for value in values or (200,):
        frames.append(Image.new("L", size))
        frames[-1].paste(value, (4, 4, 10, 10))
    frames[0].save(path, save_all=len(frames) > 1, append_images=frames[1:])
    return path


def results(folder: Path | str = "out") -> set[str]:
    folder = Path(folder)
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def read(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_files_folders_patterns_and_animations(program, brightness):
    draw("a.png")
    draw("scans/b.jpg")
    draw("scans/deep/c.tif")
    draw("scans/notes/d.gif", 200, 50, 200)
    Path("scans/readme.txt").write_text("not a picture")
    draw("more/x/e.png")
    code, out, err = program("a.png", "scans", "more/**/*.png", "--out", "out", "--instances")
    assert (code, err) == (0, "")
    assert "7 segmented" in out
    bases = ["a", "b", "deep/c", "x/e", *(f"notes/d/00000{i}" for i in range(3))]
    kinds = ("mask", "overlay", "instances")
    assert results() == {f"{base}.{kind}.png" for base in bases for kind in kinds}
    expected = np.zeros((16, 24), np.uint8)
    expected[4:10, 4:10] = 1
    np.testing.assert_array_equal(read("out/a.mask.png"), expected)
    np.testing.assert_array_equal(read("out/a.instances.png"), expected)
    assert read("out/a.instances.png").dtype == np.uint16
    assert read("out/a.overlay.png").shape == (16, 24, 3)
    assert read("out/notes/d/000001.mask.png").max() == 0
    with Image.open("out/a.mask.png") as picture:
        assert picture.convert("RGB").getpixel((5, 5)) == (255, 255, 255)


def test_hidden_files_are_no_images(program, brightness):
    draw("scans/a.png")
    Path("scans/._a.png").write_bytes(b"what a Mac knows about a.png")
    draw("scans/.cache/b.png")
    draw(".own/c.png")
    for inputs in (("scans",), ("scans/**/*.png",), ("scans", ".own", ".own/*.png")):
        code, _, err = program(*inputs, "--out", "out")
        assert (code, err) == (0, "")
    assert results() == {f"{name}.{kind}.png" for name in "ac" for kind in ("mask", "overlay")}


def test_results_stand_as_the_photograph_is_seen(program, brightness):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # stored lying on its side
    lying = Image.new("L", (24, 16))
    lying.paste(200, (0, 8, 8, 16))  # at the stored left and bottom: above and left when seen
    lying.save("a.png", exif=exif)
    assert program("a.png", "--out", "out", "--instances")[0] == 0
    expected = np.zeros((24, 16), np.uint8)
    expected[:8, :8] = 1
    np.testing.assert_array_equal(read("out/a.mask.png"), expected)
    np.testing.assert_array_equal(read("out/a.instances.png"), expected)
    overlay = read("out/a.overlay.png")
    assert overlay.shape == (24, 16, 3)
    assert overlay[2, 2].sum() > 300
    assert overlay[12:].max() == 0


def test_what_is_done_is_skipped_unless_told(program, brightness):
    draw("in/a.png")
    draw("in/b.gif", 200, 100)
    assert program("in", "--out", "out")[0] == 0
    Path("out/a.mask.png").write_bytes(b"mine")
    Path("out/b/000001.overlay.png").unlink()
    code, out, _ = program("in", "--out", "out")
    assert code == 0
    assert "1 segmented, 2 already done" in out
    assert Path("out/a.mask.png").read_bytes() == b"mine"
    code, out, _ = program("in", "--out", "out", "--overwrite")
    assert "3 segmented" in out
    assert read("out/a.mask.png").max() == 1
    # Labels were not asked for before, so with them the pictures are not done.
    code, out, _ = program("in", "--out", "out", "--instances")
    assert "3 segmented, 6 existing files kept (--overwrite replaces them)" in out


@pytest.mark.parametrize("there", ["mask", "overlay", "instances"])
def test_no_file_is_replaced_unless_told(program, brightness, there):
    """Whether the user drew it, or an interrupted run had come that far."""
    draw("a.png")
    Path("out").mkdir()
    mine = Path(f"out/a.{there}.png")
    mine.write_bytes(b"mine")
    code, out, _ = program("a.png", "--out", "out", "--instances")
    assert (code, results()) == (0, {f"a.{kind}.png" for kind in ("mask", "overlay", "instances")})
    assert "1 segmented, 1 existing files kept" in out
    assert mine.read_bytes() == b"mine"
    assert program("a.png", "--out", "out", "--instances", "--overwrite")[0] == 0
    assert read(str(mine)).shape[:2] == (16, 24)


def test_an_output_folder_without_permission_is_told(program, brightness, monkeypatch):
    draw("a.png")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # of root all is allowed
    code, out, err = program("a.png", "--out", "out")
    assert (code, out, results()) == (2, "", set())
    assert err == "error: nothing can be written in out; choose another --out\n"


def test_a_result_that_cannot_be_written_does_not_stop_the_rest(program, brightness):
    long = "n" * 245  # its mask's name would do, that of the overlay has 257 characters
    draw(f"in/{long}.png")
    draw("in/a.png")
    draw("in/sub/b.png")
    draw("in/z.png")
    Path("out").mkdir()
    Path("out/sub").write_text("mine")
    code, _, err = program("in", "--out", "out")
    assert (code, results()) == (
        1,
        {f"{n}.{k}.png" for n in "az" for k in ("mask", "overlay")} | {"sub"},
    )
    assert Path("out/sub").read_text() == "mine"
    first, *named = err.splitlines()
    assert first == "error: 2 of 4 files failed:"
    said = (
        f"in/{long}.png cannot be written (File name too long); mend that, or choose another --out"
    )
    assert said in named[0]
    assert "out/sub/b.overlay.png of in/sub/b.png cannot be written (" in named[1]


def test_a_full_disk_stops(program, brightness, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(predict, "write_bytes_atomic", full)
    draw("in/a.png")
    draw("in/b.png")
    code, out, err = program("in", "--out", "out")
    assert (code, out) == (2, "")
    assert err.startswith("error: the disk is full while writing out/a.overlay.png; ")


def test_results_beside_the_images_are_no_images(program, brightness):
    draw("in/a.png")
    draw("in/truth.mask.png")
    for _ in range(2):
        assert program("in", "--out", "in/out")[0] == 0
    assert results("in/out") == {
        f"{name}.{kind}.png" for name in ("a", "truth.mask") for kind in ("mask", "overlay")
    }
    draw("flat/a.png")
    for _ in range(2):
        assert program("flat", "--out", "flat")[0] == 0
    assert results("flat") == {"a.png", "a.mask.png", "a.overlay.png"}


def test_results_that_a_shell_names_beside_their_pictures_are_no_images(program, brightness):
    draw("in/a.png")
    for name in "bc":
        draw(f"in/{name}.gif", 200, 100)
    draw("in/truth.mask.png")
    made = {"a", "truth.mask", *(f"{name}/00000{i}" for name in "bc" for i in (0, 1))}
    for _ in range(2):
        named = [p for pattern in ("*.png", "*.gif", "*/*.png") for p in Path("in").glob(pattern)]
        assert program(*named, "--out", "in", "--instances")[0] == 0
    assert results("in") == {"a.png", "b.gif", "c.gif", "truth.mask.png"} | {
        f"{base}.{kind}.png" for base in made for kind in ("mask", "overlay", "instances")
    }
    code, out, _ = program("in/a.mask.png", "--out", "in")
    assert (code, out.partition(";")[0]) == (0, "1 segmented")  # named without its picture


def test_an_unreadable_file_does_not_stop_the_rest(program, brightness):
    draw("in/a.png")
    draw("in/c.png")
    data = draw("in/b.png").read_bytes()
    Path("in/b.png").write_bytes(data[:40])
    stack = draw("in/stack.gif", *range(130, 230, 10), size=(90, 90)).read_bytes()
    Path("in/stack.gif").write_bytes(stack[: len(stack) // 2])
    Path("in/z.mp4").write_bytes(b"nothing")
    code, _, err = program("in", "--out", "out")
    assert code == 1
    assert {"a.mask.png", "c.mask.png"} <= results()
    assert not Path("out/b.mask.png").exists()
    lines = err.splitlines()
    assert lines[0] == "error: 3 of 5 files failed:"
    for line, name in zip(lines[1:], ("b.png", "stack.gif", "z.mp4"), strict=True):
        assert f"in/{name}" in line
    assert not [name for name in results() if "tmp" in name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no input given"),
        (("absent.png",), "absent.png does not exist"),
        (("empty",), "empty holds no picture or video"),
        (("none/*.png",), r"none/*.png holds no picture or video"),
        (("a.png", "--model", "absent"), "absent cannot be read"),
        (("a.png", "--tile", "100"), "tile is 100"),
        (("a.png", "--overlap", "7"), "overlap is 7"),
        (("a.png", "--batch-size", "0"), "batch_size is 0"),
        (("a.png", "--min-distance", "0"), "min_distance is 0"),
        (("a.png", "--image-size", "0", "5"), "image_size is 0 5"),
        (("a.png", "--image-size", "256"), "--image-size takes two whole numbers, height and"),
        (("a.png", "--implementation", "magic"), "unknown implementation 'magic'"),
        (("a.png", "--out", "a.png"), "a.png cannot be made (File exists); choose another --out"),
        (("a.png", "--out", "a.png/sub"), "a.png/sub cannot be made (Not a directory)"),
        (("a.png", "--out", "x" * 300), "cannot be made (File name too long)"),
        (("a.png", "--flip"), "unknown option --flip; did you mean --flips?"),
    ],
)
def test_bad_options_are_one_line(program, arguments, said):
    draw("a.png")
    Path("empty").mkdir()
    before = set(Path.cwd().iterdir())
    code, out, err = program(*arguments)
    assert (code, out) == (2, "")
    assert set(Path.cwd().iterdir()) == before
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
    assert results(".") == {"a.png"}


@pytest.mark.parametrize(
    "pair",
    [("in/a.png", "in/a.jpg"), ("in/a.png", "other/a.png"), ("in/a.gif", "in/a/000001.png")],
)
def test_two_files_with_the_same_results_are_refused(program, pair):
    for path in pair:
        draw(path)
    folders = {Path(path).parts[0] for path in pair}
    code, _, err = program(*sorted(folders), "--out", "out")
    assert code == 2
    assert all(path in err for path in pair)
    assert not Path("out").exists()
    again = predict.find_items([pair[0], pair[0]], Path("out"))
    assert len(again) == 1


def test_a_trained_network_segments_as_in_python(program):
    params = pack(trained_model())
    save_packed("trained.safetensors", params)
    pixels = generate_example("validation", 3, image_size=(41, 57))["image"]
    Image.fromarray(pixels).save("a.png")
    assert program("a.png", "--model", "trained.safetensors", "--out", "out")[0] == 0
    mask = read("out/a.mask.png")
    np.testing.assert_array_equal(mask, mbu_jax.predict(params, pixels))
    assert 0 < mask.mean() < 1


def test_images_are_resized_as_the_run_was_trained(program, model, monkeypatch):
    draw("a.png", size=(40, 24))
    seen = []

    def segment(params, images, **options):
        for image in images:
            seen.append(image.shape[:2])
            yield image[..., :1].astype(np.float32) - 127.5

    monkeypatch.setattr(predict, "predict", segment)
    Path("elsewhere").mkdir()
    scaled = dataclasses.replace(load_packed(model), image_size=(48, 80))
    save_packed("elsewhere/model.safetensors", scaled)
    for options in ((), ("--image-size", "own"), ("--image-size", "12", "20")):
        code, *_ = program("a.png", "--model", "elsewhere", "--overwrite", "--out", "out", *options)
        assert code == 0
        mask = read("out/a.mask.png")
        assert mask.shape == (24, 40)
        assert mask[7, 7] == 1
        assert 20 <= mask.sum() <= 42  # 36, less what blurs at the corners
    assert seen == [(48, 80), (24, 40), (12, 20)]
    save_packed("large", dataclasses.replace(scaled, image_size=(8, 2**14 + 1)))
    code, _, err = program("a.png", "--model", "large", "--out", "out")
    assert code == 2
    assert "image_size is 8 16385; give a height and width of 1 to 16384" in err


def test_too_many_objects_fail_that_file_alone(program, brightness, monkeypatch):
    draw("a.png")
    monkeypatch.setattr(
        predict, "label_instances", lambda mask, **options: mask.astype(np.uint32) * 70000
    )
    code, _, err = program("a.png", "--instances", "--out", "out")
    assert code == 1
    assert "70000 objects" in err
    assert results() == set() if Path("out").exists() else True


def test_a_network_of_other_channels_is_told(tmp_path):
    path = tmp_path / "model.safetensors"
    save_packed(path, random_packed(UNetConfig(width=4, in_channels=5)))
    with pytest.raises(InputError, match="takes images of 5 channels"):
        load_for_pictures(path)


@pytest.mark.parametrize("named", ["run", "run/model.safetensors"])
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "run has no model.safetensors yet; finish its training: the same command goes on"),
        (
            {"unet": UNetConfig().to_dict()},
            "run has no model.safetensors yet; finish its training: the same command goes on",
        ),
        (
            {"unet": UNetConfig.preset("full_precision").to_dict()},
            "run has no model.safetensors: activation_bits is 32: full-precision activations "
            "cannot be packed; train with activation_bits 1 or 2",
        ),
    ],
)
def test_a_run_without_a_packed_network_is_told_why(program, config, said, named):
    draw("a.png")
    RunDirectory("run").create_or_resume(config)
    assert program("a.png", "--model", named) == (2, "", f"error: {said}\n")
    assert not Path("predictions").exists()


def test_a_folder_that_is_no_run_is_told(program):
    draw("a.png")
    Path("run").mkdir()
    code, _, err = program("a.png", "--model", "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "run has no config.json, so it is no run; give the directory of a run" in err
