"""Label Studio's brush RLE: a mask as a bit stream of runs and literals, kept as a JSON list of bytes.

The format is @thi.ng/rle-pack's (https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack), most significant
bit first. Header: count of values:32, word size - 1:5, four of (length size - 1):4. Then, until there are count values,
packets of run:1, index:2, length - 1:<length size at index>, followed by one word that repeats (run = 1) or by as many
words as the length says (run = 0). The values are the mask's pixels in row order, four (RGBA) a pixel.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = 8
_LENGTH_SIZES = (3, 4, 8, 16)
_LONGEST_RUN = 1 << _LENGTH_SIZES[-1]
_HEADER_BITS = 32 + 5 + 4 * 4
_CHANNELS = 4


class RleError(ValueError):
    """The brush RLE is not one, or is of another image's size."""


def encode(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> list[int]:
    """Encodes a mask (H, W), set where non-zero, with the value 255, byte for byte as label-studio-sdk does."""
    flat = np.asarray(mask).ravel() != 0
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(starts, append=flat.size)
    return pack(flat[starts] * np.uint8(255), _CHANNELS * lengths)


def decode(rle: Sequence[int], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Decodes the alpha channel (H, W), 0–255; strokes drawn by hand have soft edges.

    Raises:
        RleError: ``rle`` is not a list of bytes, is truncated or garbled, or holds another number of pixels than
            ``shape``; the last is found before anything is allocated.
    """
    height, width = shape
    values, lengths = unpack(rle, _CHANNELS * height * width)
    # Pixel k's alpha is value 4k + 3, so a run that ends before value e completes e // 4 pixels.
    pixels = np.diff(np.cumsum(lengths) // _CHANNELS, prepend=0)
    return np.repeat(values, pixels).reshape(shape)


def pack(values: NDArray[np.uint8], lengths: NDArray[np.int64]) -> list[int]:
    """Encodes runs: ``values[i]`` (0–255) repeats ``lengths[i]`` times (1 or more)."""
    # A run that is too long splits, and its remainder keeps the longest length size, however short it is.
    size_index = np.searchsorted([1 << size for size in _LENGTH_SIZES[:-1]], lengths)
    parts = -(-lengths // _LONGEST_RUN)
    values, size_index = np.repeat(values, parts), np.repeat(size_index, parts)
    packets = np.full(values.size, _LONGEST_RUN)
    packets[np.cumsum(parts) - 1] = lengths - _LONGEST_RUN * (parts - 1)

    # The SDK writes a single value as a literal of length one, which has the size of a run of one.
    literal = np.repeat(lengths == 1, parts)
    size = np.array(_LENGTH_SIZES)[size_index]
    codes = (np.where(literal, 0, 4) | size_index) << size
    codes = (codes | (packets - 1)) << _WORD | values
    widths = 3 + size + _WORD
    ends = _HEADER_BITS + np.cumsum(widths)

    stream = np.zeros(int(ends[-1]) // 8 + 1, np.uint8)
    header = int(lengths.sum()) << 21 | (_WORD - 1) << 16 | 0x237F
    stream[:7] = np.frombuffer((header << 3).to_bytes(7, "big"), np.uint8)
    # A packet has at most 27 bits, so it lies in the five bytes from where it starts; no two share a bit.
    first_byte, first_bit = np.divmod(ends - widths, 8)
    codes = codes.astype(np.int64) << (40 - first_bit - widths)
    for i in range(5):
        part = (codes >> (32 - 8 * i) & 0xFF).astype(np.uint8)
        used = part != 0
        np.add.at(stream, first_byte[used] + i, part[used])
    rle: list[int] = stream.tolist()
    return rle


def unpack(rle: Sequence[int], count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Decodes runs: values (0–255) and how often each repeats, ``count`` in all. Literals are runs of one.

    Raises:
        RleError: as for ``decode``.
    """
    if not isinstance(rle, list | tuple):
        raise RleError(f"A brush RLE must be a list of bytes, not {type(rle).__name__}.")
    try:
        data = bytes(rle)
    except (TypeError, ValueError) as error:
        raise RleError(f"A brush RLE must hold integers from 0 to 255 only ({error}).") from error
    header = int.from_bytes(data[:7], "big") >> 3
    if len(data) < 7 or header >> 16 & 0x1F != _WORD - 1:
        raise RleError("The brush RLE has no header of 8-bit values; it is truncated or of another format.")
    if header >> 21 != count:
        raise RleError(f"The brush RLE holds {header >> 21} values, but the image has {count} (4 a pixel).")

    packets = np.array(_packet_starts(data, count), np.int64)
    windows = _windows(data)
    headers = windows[packets >> 3] << (packets & 7)
    sizes = _length_sizes(data)[headers >> 29 & 3]
    packet_lengths = (headers >> (29 - sizes) & ((1 << sizes) - 1)) + 1
    is_run = headers >> 31 & 1 == 1

    words = np.where(is_run, 1, packet_lengths)
    word_index = np.arange(words.sum()) - np.repeat(np.cumsum(words) - words, words)
    bits = np.repeat(packets + 3 + sizes, words) + _WORD * word_index
    values = windows[bits >> 3] >> (24 - (bits & 7)) & 0xFF
    return values.astype(np.uint8), np.repeat(np.where(is_run, packet_lengths, 1), words)


def _packet_starts(data: bytes, count: int) -> list[int]:
    """The bit each packet starts at. Every start depends on the packet before, so this alone is a loop."""
    windows: list[int] = _windows(data).tolist()
    sizes: list[int] = _length_sizes(data).tolist()
    starts: list[int] = []
    position, end, missing = _HEADER_BITS, 8 * len(data), count
    while missing > 0:
        # Flag, index and length have at most 19 bits, and start at one of the first 8 of these 32.
        window = windows[position >> 3] << (position & 7)
        size = sizes[window >> 29 & 3]
        length = (window >> (29 - size) & ((1 << size) - 1)) + 1
        starts.append(position)
        position += 3 + size + (_WORD if window >> 31 & 1 else _WORD * length)
        missing -= length
        if position > end:
            raise RleError("The brush RLE ends too early; it is truncated.")
    if missing < 0:
        raise RleError("The brush RLE's last packet holds more values than are left; it is garbled.")
    return starts


def _windows(data: bytes) -> NDArray[np.int64]:
    """The 32 bits that start at each byte, and past the last."""
    stream = np.frombuffer(data + bytes(4), np.uint8).astype(np.int64)
    return stream[:-3] << 24 | stream[1:-2] << 16 | stream[2:-1] << 8 | stream[3:]


def _length_sizes(data: bytes) -> NDArray[np.int64]:
    """The header's four sizes of length fields, in bits."""
    header = int.from_bytes(data[:7], "big") >> 3
    return np.array([1 + (header >> shift & 0xF) for shift in (12, 8, 4, 0)])
