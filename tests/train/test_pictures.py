import json

import matplotlib
import numpy as np
import pytest
from PIL import Image

from mbu_jax.errors import InputError
from mbu_jax.train.pictures import plot_curves, sample_panel, write_samples

GREEN, VERMILION, BLUE, PURPLE = (0, 158, 115), (235, 95, 0), (86, 180, 233), (204, 121, 167)


def nearest(colour) -> tuple[int, ...]:
    palette = (GREEN, VERMILION, BLUE, PURPLE)
    return min(
        palette, key=lambda c: sum((int(a) - b) ** 2 for a, b in zip(colour, c, strict=True))
    )


def read(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def square(side: int, low: int, high: int, value: int = 1) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[low:high, low:high] = value
    return mask


def test_panel_shows_the_four_pictures():
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    truth, prediction = np.zeros((2, 20, 24), np.uint8)
    truth[2:12, 2:12] = 1
    prediction[6:16, 6:16] = 1
    panel = sample_panel(image, truth, prediction)
    assert panel.shape == (20, 4 * 24 + 12, 3)
    assert panel.dtype == np.uint8
    columns = [panel[:, i * 28 : i * 28 + 24] for i in range(4)]
    assert np.array_equal(columns[0], image)
    assert np.array_equal(columns[1], np.repeat(255 * truth[..., None], 3, 2))
    assert np.array_equal(columns[2], np.repeat(255 * prediction[..., None], 3, 2))
    background = (truth == 0) & (prediction == 0)
    grey = columns[3][background]
    assert (grey[:, 0] == grey[:, 1]).all()
    assert (grey[:, 0] == grey[:, 2]).all()
    assert nearest(columns[3][14, 14]) == VERMILION
    assert nearest(columns[3][3, 3]) == BLUE
    correct = columns[3][8, 8].astype(int)
    assert correct[1] > correct[0]


@pytest.mark.parametrize("level", [0, 255])
def test_errors_show_on_black_and_on_white(level):
    image = np.full((8, 8, 3), level, np.uint8)
    overlay = sample_panel(image, square(8, 0, 4), square(8, 4, 8))[:, -8:]
    assert nearest(overlay[1, 1]) == BLUE
    assert nearest(overlay[6, 6]) == VERMILION
    assert np.ptp(overlay[1, 6].astype(int)) == 0


def test_classes_have_their_colours():
    image = np.full((8, 8, 3), 128, np.uint8)
    truth, prediction = square(8, 0, 8, 1), square(8, 0, 4, 2)
    panel = sample_panel(image, truth, prediction)
    assert len({tuple(c) for c in panel[:, 24:32].reshape(-1, 3)}) == 2
    assert panel[1, 25].tolist() != panel[1, 13].tolist()
    assert nearest(panel[1, -7]) == PURPLE
    assert nearest(panel[6, -1]) == BLUE
    many = sample_panel(image, np.arange(64).reshape(8, 8), prediction)[:, 12:20]
    assert many.reshape(-1, 3).any(axis=1).tolist() == [False] + [True] * 63


@pytest.mark.parametrize(
    ("image", "truth", "prediction"),
    [
        (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4)), np.zeros((4, 4))),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4)), np.zeros((4, 4))),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5)), np.zeros((4, 4))),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), np.zeros((5, 4))),
    ],
)
def test_wrong_shapes_are_refused(image, truth, prediction):
    with pytest.raises(ValueError, match="image"):
        sample_panel(image, truth, prediction)


def test_samples_are_captioned_and_enlarged(tmp_path):
    rng = np.random.default_rng(1)
    sizes = [(64, 64), (512, 512), (40, 70)]
    images = [rng.integers(0, 256, (*s, 3)).astype(np.uint8) for s in sizes]
    truths = [(image[..., 0] > 128).astype(np.uint8) for image in images]
    predictions = [np.roll(t, 2) for t in truths]
    ids = ["a", "../../b c", "x" * 300]
    files = write_samples(tmp_path / "samples", images, truths, predictions, ids, [0.5, 1.0, 0.0])
    assert [f.name for f in files] == ["00-a.png", "01-.._.._b_c.png", f"02-{'x' * 100}.png"]
    assert sorted((tmp_path / "samples").iterdir()) == sorted(files)
    for file, image, truth, prediction in zip(files, images, truths, predictions, strict=True):
        picture = read(file)
        panel = sample_panel(image, truth, prediction)
        factor = max(1, -(-256 // image.shape[1]))
        panel = panel.repeat(factor, 0).repeat(factor, 1)
        windows = [
            top
            for top in range(picture.shape[0] - panel.shape[0] + 1)
            if np.array_equal(picture[top : top + panel.shape[0], 4:-4], panel)
        ]
        assert len(windows) == 1
        caption = picture[: windows[0]]
        assert caption.min() < 100  # there is text
        assert (caption[:, -1] == 255).all()  # and it ends before the edge


def test_legend_names_the_wrong_class_only_where_there_are_several(tmp_path):
    image = np.zeros((256, 256, 3), np.uint8)
    one, two = square(256, 0, 9), square(256, 0, 9, 2)
    files = write_samples(tmp_path, [image, image], [one, two], [one, two], ["a", "b"])
    purple = [(read(f) == PURPLE).all(axis=-1).any() for f in files]
    assert purple == [False, True]


def test_samples_need_as_many_of_each(tmp_path):
    image, mask = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="zip"):
        write_samples(tmp_path, [image], [mask], [mask, mask], ["a"])


def log(folder, *records) -> str:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return str(path)


def test_curves_are_drawn_and_leave_matplotlib_as_it_was(tmp_path):
    records = []
    for epoch in (1, 2, 3):
        line = {"step": epoch, "epoch": epoch}
        records += [
            {**line, "kind": "train", "loss": 1 / epoch, "dice": 0.5, "learning_rate": 1e-5},
            {**line, "kind": "validation", "loss": 1 / epoch, "dice": 0.4},
            {**line, "kind": "layers", "density/a": 0.1, "density/b": 0.2, "sign_flip_rate/a": 0.0},
        ]
    before = dict(matplotlib.rcParams)
    plot_curves(log(tmp_path, *records), tmp_path / "curves.png")
    assert dict(matplotlib.rcParams) == before
    picture = read(tmp_path / "curves.png")
    assert picture.shape[1] > 1000
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    # Training in blue and validation in vermilion, as the legend says.
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        distance = np.abs(picture.astype(int) - np.array(colour).reshape(1, 1, 3)).max(axis=-1)
        assert (distance < 50).sum() > 50


def test_curves_of_the_first_epoch_without_layers(tmp_path):
    path = log(tmp_path, {"step": 1, "epoch": 0.1, "kind": "train", "loss": 0.5})
    plot_curves(path, tmp_path / "curves.png")
    assert len(read(tmp_path / "curves.png")) < 600


@pytest.mark.parametrize("records", [[], [{"step": 1, "epoch": 1, "kind": "train", "x": 1}]])
def test_nothing_to_draw_is_told(tmp_path, records):
    with pytest.raises(InputError, match="holds no"):
        plot_curves(log(tmp_path, *records), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
