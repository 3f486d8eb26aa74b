"""Where the nuclei of a generated image lie, and what shape they have."""

import dataclasses

import numpy as np

_SMALLEST_AREA = 16  # pixels; slivers cut off by the image's border are left out


@dataclasses.dataclass(frozen=True)
class Outline:
    """An ellipse whose radius is modulated by a few low Fourier harmonics.

    Attributes:
      y, x: the centre, in pixels.
      radii: the two semi-axes, in pixels.
      angle: of the first axis against the x axis, in radians.
      harmonics: complex [K], amplitude and phase of harmonics 2, 3, ... relative to the radius.
    """

    y: float
    x: float
    radii: tuple[float, float]
    angle: float
    harmonics: np.ndarray

    @property
    def mean_radius(self) -> float:
        """The radius of a disc with the ellipse's area, in pixels."""
        return float(np.sqrt(self.radii[0] * self.radii[1]))

    def window(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        """Bounds the part of an image that the outline can reach.

        Args:
          shape: (H, W) of the image.

        Returns:
          Rows and columns, within the image.
        """
        reach = max(self.radii) * (1 + np.abs(self.harmonics).sum()) + 1

        def clip(centre: float, length: int) -> slice:
            low, high = int(centre - reach), int(centre + reach + 1)
            return slice(min(max(low, 0), length), min(max(high, 0), length))

        return clip(self.y, shape[0]), clip(self.x, shape[1])

    def radial(self, window: tuple[slice, slice]) -> np.ndarray:
        """Measures each pixel's distance from the centre, relative to the outline's that way.

        Args:
          window: rows and columns of h x w pixels.

        Returns:
          float32 [h, w], below 1 inside.
        """
        rows, columns = window
        y = np.arange(rows.start, rows.stop)[:, None] - self.y
        x = np.arange(columns.start, columns.stop) - self.x
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        z = np.empty((y.size, x.size), np.complex64)
        z.real = (cosine * x + sine * y) / self.radii[0]
        z.imag = (cosine * y - sine * x) / self.radii[1]
        rho = np.abs(z)
        direction = z / np.maximum(rho, 1e-6)
        outline = np.ones_like(rho)
        power = direction
        for harmonic in self.harmonics:
            power = power * direction
            outline += (np.complex64(harmonic) * power).real
        return rho / outline


def draw_outline(
    rng: np.random.Generator,
    y: float,
    x: float,
    radius: float,
    elongation: float,
    roughness: float,
) -> Outline:
    """Draws an irregular ellipse.

    Args:
      rng: the random generator to draw from.
      y: row of the centre, in pixels.
      x: column of the centre, in pixels.
      radius: the mean radius, in pixels.
      elongation: long axis over short axis, at least 1.
      roughness: size of harmonic 2 relative to the radius; higher ones fall off as 1/k.

    Returns:
      The outline, turned by a random angle.
    """
    stretch = np.sqrt(elongation)
    order = np.arange(2, 6)
    amplitude = rng.uniform(0, 1, order.size) * roughness * 2 / order
    phase = rng.uniform(0, 2 * np.pi, order.size)
    return Outline(
        y=y,
        x=x,
        radii=(radius * stretch, radius / stretch),
        angle=rng.uniform(0, np.pi),
        harmonics=amplitude * np.exp(1j * phase),
    )


@dataclasses.dataclass(frozen=True)
class Layout:
    """The nuclei of one image; the exact truth that the image is then painted from.

    Attributes:
      labels: uint16 [H, W], 0 is background, 1..n the topmost nucleus.
      radial: float32 [H, W], 0 at a nucleus's centre, 1 on its outline; 1 in the background.
      depth: float32 [H, W], about how many pixels inside its outline; 0 in the background.
      crossings: uint8 [H, W], how many nuclei lie above each other here.
    """

    labels: np.ndarray
    radial: np.ndarray
    depth: np.ndarray
    crossings: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """Bool [H, W], true within a nucleus."""
        return self.labels > 0

    @property
    def count(self) -> int:
        """The number of nuclei, n."""
        return int(self.labels.max())

    def per_nucleus(self, values: np.ndarray) -> np.ndarray:
        """Spreads values over their nuclei.

        Args:
          values: [n], of nucleus 1..n.

        Returns:
          float32 [H, W], 0 in the background.
        """
        return np.concatenate([[0], values]).astype(np.float32)[self.labels]


def place_nuclei(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    radius: float,
    spread: float,
    coverage: float,
    touching: float,
    elongation: float,
    roughness: float,
) -> Layout:
    """Scatters nuclei over an image: apart, touching, or overlapping a little.

    Args:
      rng: the random generator to draw from.
      shape: (H, W).
      radius: the median of the mean radii, in pixels.
      spread: standard deviation of the logarithm of the radius.
      coverage: the part of the image to cover, about; one nucleus at least is wanted.
      touching: probability that a nucleus is placed against an earlier one.
      elongation: the largest ratio of long to short axis.
      roughness: see `draw_outline`.

    Returns:
      The layout, with fewer nuclei than wanted where there is no room.
    """
    height, width = shape
    labels = np.zeros(shape, np.uint16)
    radial = np.ones(shape, np.float32)
    depth = np.zeros(shape, np.float32)
    crossings = np.zeros(shape, np.uint8)
    outlines: list[Outline] = []
    wanted = max(1, round(coverage * height * width / (np.pi * radius**2)))
    for _ in range(4 * wanted + 16):
        if len(outlines) == wanted:
            break
        own_radius = radius * np.exp(spread * rng.standard_normal())
        against = len(outlines) > 0 and rng.random() < touching
        if against:
            neighbour = outlines[rng.integers(len(outlines))]
            direction = rng.uniform(0, 2 * np.pi)
            distance = rng.uniform(0.8, 1.05) * (own_radius + neighbour.mean_radius)
            y = neighbour.y + distance * np.sin(direction)
            x = neighbour.x + distance * np.cos(direction)
        else:
            y, x = rng.uniform(0, height), rng.uniform(0, width)
        outline = draw_outline(rng, y, x, own_radius, rng.uniform(1, elongation), roughness)
        window = outline.window(shape)
        own_radial = outline.radial(window)
        inside = own_radial < 1
        area = np.count_nonzero(inside)
        covered = np.count_nonzero(inside & (labels[window] > 0))
        if area < _SMALLEST_AREA or covered > (0.25 if against else 0.02) * area:
            continue
        outlines.append(outline)
        labels[window][inside] = len(outlines)
        radial[window][inside] = own_radial[inside]
        depth[window][inside] = (1 - own_radial[inside]) * np.float32(outline.mean_radius)
        crossings[window] += inside
    return Layout(_number_visible(labels), radial, depth, crossings)


def _number_visible(labels: np.ndarray) -> np.ndarray:
    """Numbers the nuclei 1..n, without those that later ones have all but hidden."""
    area = np.bincount(labels.ravel())
    visible = area >= _SMALLEST_AREA
    visible[0] = False
    numbers = np.where(visible, np.cumsum(visible), 0)
    return numbers.astype(np.uint16)[labels]
