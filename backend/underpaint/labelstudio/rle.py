"""Label Studio's brush RLE: a mask as a bit stream of runs and literals, kept as a JSON list of bytes.

The format is @thi.ng/rle-pack's (https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack), most significant
bit first. Header: count of values:32, word size - 1:5, four of (length size - 1):4. Then, until there are count values,
packets of run:1, index:2, length - 1:<length size at index>, followed by one word that repeats (run = 1) or by as many
words as the length says (run = 0). The values are the mask's pixels in row order, four (RGBA) a pixel.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from underpaint.compiled import compiled

Bytes = NDArray[np.uint8]
Indices = NDArray[np.int64]

_WORD = 8
_LENGTH_SIZES = (3, 4, 8, 16)
_LONGEST_RUN = 1 << _LENGTH_SIZES[-1]
_HEADER_BITS = 32 + 5 + 4 * 4
_PACKET_BITS = 1 + 2 + _LENGTH_SIZES[-1] + _WORD
_CHANNELS = 4
_SLACK = 8  # bytes past the end that a packet may be looked for in, or written over with zeros
_TRUNCATED, _GARBLED = 1, 2
_EACH_BYTE, _LOW_BITS, _GATHER = (
    np.uint64(0x0101010101010101),
    np.uint64(0x7F7F7F7F7F7F7F7F),
    np.uint64(0x0102040810204080),
)
_LOWEST_BIT = np.array([0] + [(byte & -byte).bit_length() - 1 for byte in range(1, 256)])


class RleError(ValueError):
    """The brush RLE is not one, or is of another image's size."""


def encode(mask: NDArray[np.bool_] | Bytes) -> list[int]:
    """Encodes a mask (H, W), set where non-zero, with the value 255, byte for byte as label-studio-sdk does."""
    flat = mask.ravel().view(np.uint8)
    return encode_edges(_edges(flat), flat.size)


def encode_edges(edges: Indices, pixels: int) -> list[int]:
    """As ``encode``, from where the mask changes.

    Args:
        edges: int64 (N,), ascending and each once: the pixels, counted in row order, with which the mask is set and
            cleared in turn. Before the first it is clear.
        pixels: how many the mask has; an edge here has no effect.
    """
    packets = len(edges) + 1 + _CHANNELS * pixels // _LONGEST_RUN
    stream = np.zeros((_HEADER_BITS + _PACKET_BITS * packets) // 8 + _SLACK, np.uint8)
    header = (_CHANNELS * pixels) << 21 | (_WORD - 1) << 16 | 0x237F
    stream[:7] = np.frombuffer((header << 3).to_bytes(7, "big"), np.uint8)
    bits = _pack(np.append(edges, pixels), stream)
    # The SDK pads with a whole byte where nothing is left to fill.
    return list(stream[: bits // 8 + 1].tobytes())


def decode(rle: Sequence[int], shape: tuple[int, int]) -> Bytes:
    """Decodes the alpha channel (H, W), 0–255; strokes drawn by hand have soft edges.

    Raises:
        RleError: ``rle`` is not a list of bytes, is truncated or garbled, or holds another number of pixels than
            ``shape``; the last is found before anything is allocated.
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
    count = _CHANNELS * shape[0] * shape[1]
    if header >> 21 != count:
        raise RleError(f"The brush RLE holds {header >> 21} values, but the image has {count} (4 a pixel).")

    sizes = np.array([1 + (header >> shift & 0xF) for shift in (12, 8, 4, 0)])
    alpha = np.empty(shape, np.uint8)
    damage = _unpack(np.frombuffer(data + bytes(_SLACK), np.uint8), 8 * len(data), sizes, alpha.ravel())
    if damage == _TRUNCATED:
        raise RleError("The brush RLE ends too early; it is truncated.")
    if damage == _GARBLED:
        raise RleError("The brush RLE's last packet holds more values than are left; it is garbled.")
    return alpha


@compiled
def _edges(flat: Bytes) -> Indices:
    """The pixels at which `flat` changes between zero and anything else, the first from zero."""
    edges, found, before, alike = np.empty(1024, np.int64), 0, np.uint64(0), np.uint64(0)
    words, word = flat[: flat.size // 8 * 8].view(np.uint64), 0
    while True:
        # Most often nothing changes within eight pixels.
        while word < words.size and words[word] == alike:
            word += 1
        if found + 8 > edges.size:
            longer = np.empty(2 * edges.size, np.int64)
            for edge in range(found):
                longer[edge] = edges[edge]
            edges = longer
        if word == words.size:
            break
        # The top bit of each byte tells whether it is set; a product gathers them in one byte, the first pixel lowest.
        tops = ((words[word] & _LOW_BITS) + _LOW_BITS | words[word]) & ~_LOW_BITS
        bits = (tops >> np.uint64(7)) * _GATHER >> np.uint64(56)
        changes = (bits ^ (bits << np.uint64(1) | before)) & np.uint64(0xFF)
        while changes:
            edges[found] = 8 * word + _LOWEST_BIT[changes]
            found += 1
            changes &= changes - np.uint64(1)
        before = bits >> np.uint64(7)
        alike = (words[word] >> np.uint64(56)) * _EACH_BYTE
        word += 1
    for pixel in range(8 * words.size, flat.size):
        if (flat[pixel] != 0) != (before != 0):
            before ^= np.uint64(1)
            edges[found] = pixel
            found += 1
    return edges[:found]


@compiled
def _pack(ends: Indices, stream: Bytes) -> int:
    """Write the packets of runs that end before the pixels `ends`, the first clear; returns the bits in use."""
    position, start = _HEADER_BITS, 0
    for run in range(ends.size):
        missing = _CHANNELS * (ends[run] - start)
        start = ends[run]
        index = (missing > 8) + (missing > 16) + (missing > 256)
        # A run that is too long splits, and its remainder keeps the longest length size, however short it is.
        while missing > 0:
            length = min(missing, _LONGEST_RUN)
            missing -= length
            size = _LENGTH_SIZES[index]
            packet = ((4 | index) << size | (length - 1)) << _WORD | 255 * (run & 1)
            position += 3 + size + _WORD
            packet <<= -position & 7
            last = (position - 1) >> 3
            for byte in range(5):
                stream[last - byte] |= packet & 0xFF
                packet >>= 8
    return position


@compiled
def _unpack(data: Bytes, bits: int, sizes: Indices, alpha: Bytes) -> int:
    """Fill `alpha` from the packets in the first `bits` of `data`, which goes on for _SLACK bytes of zeros."""
    position, value, count = _HEADER_BITS, 0, _CHANNELS * alpha.size
    while value < count:
        if position >= bits:
            return _TRUNCATED
        # Flag, index and length have at most 19 bits, and start at one of the first 8 of these 32.
        window = _window(data, position)
        size = sizes[window >> 29 & 3]
        length = (window >> (29 - size) & ((1 << size) - 1)) + 1
        position += 3 + size
        words = 1 if window >> 31 & 1 else length
        if position + _WORD * words > bits:
            return _TRUNCATED
        if value + length > count:
            return _GARBLED
        # Pixel k's alpha is value 4k + 3, so a run that ends before value e completes e // 4 pixels.
        for _ in range(words):
            word = _window(data, position) >> 24
            end = value + length // words
            alpha[value // _CHANNELS : end // _CHANNELS] = word
            value = end
            position += _WORD
    return 0


@compiled
def _window(data: Bytes, position: int) -> int:
    """32 bits from `position` on, of which the last 7 may be cleared."""
    byte = position >> 3
    window: int = data[byte] << 24 | data[byte + 1] << 16 | data[byte + 2] << 8 | data[byte + 3]
    return window << (position & 7) & 0xFFFFFFFF
