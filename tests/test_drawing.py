import numpy as np

from mbu_jax.drawing import CLASS_COLOURS, class_colours, draw_overlay

GREEN = (0, 158, 115)


def test_classes_have_colours_and_the_background_none():
    mask = np.arange(20).reshape(4, 5)
    colours = class_colours(mask)
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours[0, :5], CLASS_COLOURS[:5])
    np.testing.assert_array_equal(colours.reshape(-1, 3)[[9, 17]], CLASS_COLOURS[[1, 1]])
    assert (colours.reshape(-1, 3)[1:].any(axis=1)).all()


def test_the_background_is_untouched_and_objects_are_tinted_and_outlined():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    mask = np.zeros((30, 40), np.uint8)
    mask[5:15, 8:20] = 1
    drawn = draw_overlay(image, mask)
    np.testing.assert_array_equal(drawn[mask == 0], image[mask == 0])
    inner = np.zeros(mask.shape, bool)
    inner[6:14, 9:19] = True
    assert (drawn[(mask == 1) & ~inner] == GREEN).all()
    expected = np.round(0.7 * image[inner].astype(np.float32) + 0.3 * np.array(GREEN))
    np.testing.assert_allclose(drawn[inner], expected, atol=1)


def test_an_object_at_the_edge_has_no_outline_there():
    image = np.full((20, 20, 3), 200, np.uint8)
    mask = np.zeros((20, 20), np.uint8)
    mask[:5] = 1
    drawn = draw_overlay(image, mask)
    assert (drawn[4] == GREEN).all()
    assert not (drawn[0] == GREEN).all(axis=-1).any()
    np.testing.assert_array_equal(draw_overlay(image, np.ones_like(mask))[0], drawn[0])


def test_touching_instances_are_outlined_apart():
    image = np.zeros((20, 20, 3), np.uint8)
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 2:18] = 1
    labels = mask.astype(np.uint16)
    labels[5:15, 10:18] = 2
    apart, together = draw_overlay(image, mask, labels), draw_overlay(image, mask)
    assert (apart[10, 9:11] == GREEN).all()
    assert not (together[10, 9:11] == GREEN).all(axis=-1).any()


def test_lines_are_wider_on_large_images():
    mask = np.zeros((1600, 1600), np.uint8)
    mask[700:900, 700:900] = 1
    drawn = draw_overlay(np.zeros((1600, 1600, 3), np.uint8), mask)
    assert (drawn[800] == GREEN).all(axis=-1).sum() == 4
