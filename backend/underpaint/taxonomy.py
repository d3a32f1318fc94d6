"""Names of landscape classes: the ones Underpaint paints with, their colours, and what people call them instead."""

import re
from collections.abc import Callable, Sequence
from colorsys import hsv_to_rgb
from zlib import crc32

UNLABELLED = 255
"""The id that a class map gives to pixels without a class."""

LANDSCAPE: tuple[str, ...] = ("sky", "water", "tree", "grass", "ground", "rock", "building", "boat", "person")
"""The landscape classes; a class map's ids are indices into this tuple."""

COLOURS: dict[str, str] = {
    "sky": "#8ecae6",
    "water": "#1d6fb8",
    "tree": "#1b7f3b",
    "grass": "#a7d129",
    "ground": "#d9b36c",
    "rock": "#8d8d99",
    "building": "#c8553d",
    "boat": "#7b2cbf",
    "person": "#ff4fa3",
}

_SYNONYMS: dict[str, str] = {
    synonym: name
    for name, synonyms in {
        "sky": ("cloud", "fog", "mist", "smoke", "sky other"),
        "water": (
            *("sea", "ocean", "river", "lake", "pond", "stream", "canal", "waterfall", "wave", "reflection"),
            *("body of water", "water other"),
        ),
        "tree": ("forest", "wood", "bush", "shrub", "hedge", "orchard", "foliage", "vegetation"),
        "grass": ("meadow", "field", "lawn", "crop", "reed", "flower", "plant"),
        "ground": (
            *("path", "road", "street", "pavement", "sidewalk", "sand", "beach", "shore", "earth", "soil", "dirt"),
            *("land", "snow", "quay", "haystack"),
        ),
        "rock": ("mountain", "cliff", "stone", "hill", "boulder"),
        "building": (
            *("house", "church", "bridge", "architecture", "castle", "tower", "cottage", "hut", "temple"),
            *("mill", "windmill", "jetty", "pier", "skyline", "city"),
        ),
        "boat": ("ship", "sailboat", "sailing boat", "sail", "vessel", "canoe"),
        "person": ("people", "figure", "human", "human figure", "man", "men", "woman", "women", "child", "children"),
    }.items()
    for synonym in synonyms
}


def canonical(name: str) -> str:
    """One spelling for the many of a class name: ``"Trees"``, ``"tree"`` and ``"FOREST"`` are all ``"tree"``.

    Case, plural, and the difference between blanks, ``_`` and ``-`` are dropped, then landscape synonyms are
    resolved. Idempotent; a name that no rule knows comes back in lower case and singular.
    """
    words = re.findall(r"[^\s_-]+", name.casefold())
    spelling = " ".join(_singular(word) for word in words)
    return _SYNONYMS.get(spelling, spelling)


SPELLINGS: tuple[Callable[[str], str], ...] = (str, str.casefold, canonical)
"""Ways to compare class names, strictest first."""


def corresponding(names: Sequence[str], others: Sequence[str]) -> list[int | None]:
    """For each of ``names``, the position in ``others`` of the class that is spelled most alike, or None.

    Names are alike when they are the same, the same but for case, or synonyms (:func:`canonical`).
    """
    return [_find(name, others) for name in names]


def colour_for(name: str) -> tuple[int, int, int]:
    """RGB, each 0–255, for a class: its own in ``COLOURS``, else one that depends on the canonical name alone."""
    spelling = canonical(name)
    if spelling in COLOURS:
        red, green, blue = bytes.fromhex(COLOURS[spelling].removeprefix("#"))
    else:
        hue = crc32(spelling.encode()) / 2**32
        red, green, blue = (round(255 * channel) for channel in hsv_to_rgb(hue, 0.65, 0.85))
    return red, green, blue


def _find(name: str, others: Sequence[str]) -> int | None:
    for spelling in SPELLINGS:
        spelled = [spelling(other) for other in others]
        if spelling(name) in spelled:
            return spelled.index(spelling(name))
    return None


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word.removesuffix("ies") + "y"
    if re.search(r"(ch|sh|ss|x|zz|[^aeiou]us)es$", word):
        return word.removesuffix("es")
    if len(word) > 3 and re.search(r"[^sui]s$", word):
        return word.removesuffix("s")
    return word
