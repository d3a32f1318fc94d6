"""Smooth random fields and lines: value noise (Perlin, 1985, in its lattice form) summed over octaves."""

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]


def smooth(rng: np.random.Generator, height: int, width: int, cell_y: float, cell_x: float) -> Field:
    """A smooth field (height, width), float32, about -1..1, whose bumps are ``cell_y`` × ``cell_x`` pixels large."""
    return _enlarge(_lattice(rng, height, width, cell_y, cell_x), height, width, cell_y, cell_x)


def fractal(
    rng: np.random.Generator, height: int, width: int, cell: float, stretch: float = 1.0, octaves: int = 4
) -> Field:
    """Noise summed over octaves: (height, width), float32, about -1..1.

    ``cell`` is the height in pixels of the largest bumps; they are ``stretch`` times as wide as high.
    """
    lattice: Field = np.zeros((1, 1), np.float32)
    for octave in range(octaves):
        cell_y, cell_x = cell / 2**octave, cell * stretch / 2**octave
        finer = _lattice(rng, height, width, cell_y, cell_x)
        coarser = cv2.resize(lattice, finer.shape[::-1], interpolation=cv2.INTER_CUBIC)
        lattice = np.asarray(finer * 0.55**octave + coarser, np.float32)
    return _enlarge(lattice, height, width, cell_y, cell_x)


def line(rng: np.random.Generator, width: int, cell: float, roughness: float = 0.5, octaves: int = 6) -> Field:
    """A fractal line (width,), float32, scaled to 0..1: the outline of a ridge, a wood or a shore.

    ``cell`` is the width in pixels of its largest features; ``roughness`` (0..1) is what each finer octave keeps.
    """
    heights = np.zeros(width, np.float32)
    for octave in range(octaves):
        heights += smooth(rng, 1, width, 1, cell / 2**octave)[0] * roughness**octave
    low, high = float(heights.min()), float(heights.max())
    return (heights - low) / max(high - low, 1e-6)


def _lattice(rng: np.random.Generator, height: int, width: int, cell_y: float, cell_x: float) -> Field:
    rows, columns = int(height / max(cell_y, 1.0)) + 3, int(width / max(cell_x, 1.0)) + 3
    return rng.uniform(-1.0, 1.0, (rows, columns)).astype(np.float32)


def _enlarge(lattice: Field, height: int, width: int, cell_y: float, cell_x: float) -> Field:
    size = (int(lattice.shape[1] * max(cell_x, 1.0)) + 1, int(lattice.shape[0] * max(cell_y, 1.0)) + 1)
    wide = cv2.resize(lattice, size, interpolation=cv2.INTER_CUBIC)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    return np.ascontiguousarray(wide[top : top + height, left : left + width])
