"""Convolutions and their gradients in NumPy, one tap at a time, in whatever dtype comes in."""

import numpy as np
from numpy.typing import NDArray


def widen(x: NDArray) -> NDArray:
    """Whole numbers as int64, others as float64: sums of the former are exact."""
    wide = np.asarray(x, np.float64)
    return wide.astype(np.int64) if (wide == np.rint(wide)).all() else wide


def bordered(x: NDArray, padding: float) -> NDArray:
    batch, height, width, channels = x.shape
    larger = np.full((batch, height + 2, width + 2, channels), padding, x.dtype)
    larger[:, 1:-1, 1:-1] = x
    return larger


def conv3x3(x: NDArray, w: NDArray, padding: float) -> NDArray:
    _, height, width, _ = x.shape
    larger = bordered(widen(x), padding)
    y = 0
    for i in range(3):
        for j in range(3):
            y = y + larger[:, i : i + height, j : j + width] @ widen(w)[i, j]
    return np.asarray(y)


def conv3x3_weight_gradient(x: NDArray, dy: NDArray, padding: float) -> NDArray:
    _, height, width, _ = x.shape
    larger, dy = bordered(widen(x), padding), widen(dy)
    dw = [
        [np.einsum("bhwc,bhwk->ck", larger[:, i : i + height, j : j + width], dy) for j in range(3)]
        for i in range(3)
    ]
    return np.array(dw)


def conv3x3_input_gradient(w: NDArray, dy: NDArray) -> NDArray:
    dy = widen(dy)
    batch, height, width, _ = dy.shape
    dx = np.zeros((batch, height + 2, width + 2, w.shape[2]), dy.dtype)
    for i in range(3):
        for j in range(3):
            dx[:, i : i + height, j : j + width] += dy @ widen(w)[i, j].T
    return dx[:, 1:-1, 1:-1]


def up_conv2x2(x: NDArray, w: NDArray) -> NDArray:
    x, w = widen(x), widen(w)
    batch, height, width, _ = x.shape
    y = np.zeros((batch, 2 * height, 2 * width, w.shape[-1]), (x[..., :1] @ w[0, 0, :1]).dtype)
    for i in range(2):
        for j in range(2):
            y[:, i::2, j::2] = x @ w[i, j]
    return y


def up_conv2x2_gradients(x: NDArray, w: NDArray, dy: NDArray) -> tuple[NDArray, NDArray]:
    """Gradients with respect to x and w."""
    x, w, dy = widen(x), widen(w), widen(dy)
    taps = [[dy[:, i::2, j::2] for j in range(2)] for i in range(2)]
    dx = sum(taps[i][j] @ w[i, j].T for i in range(2) for j in range(2))
    dw = [[np.einsum("bhwc,bhwk->ck", x, taps[i][j]) for j in range(2)] for i in range(2)]
    return np.asarray(dx), np.array(dw)


def max_pool2x2(x: NDArray) -> NDArray:
    return np.stack([x[:, i::2, j::2] for i in range(2) for j in range(2)]).max(axis=0)
