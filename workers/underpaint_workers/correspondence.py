"""Which class of one list a class of another list is."""

from collections.abc import Sequence

from underpaint.taxonomy import canonical

_SPELLINGS = (str, str.casefold, canonical)  # strictest first


def corresponding(names: Sequence[str], others: Sequence[str]) -> list[int | None]:
    """For each of `names`, the position in `others` of the class that is spelled most alike, or None.

    Names are alike when they are the same, the same but for case, or synonyms (``underpaint.taxonomy.canonical``).
    """
    return [_find(name, others) for name in names]


def _find(name: str, others: Sequence[str]) -> int | None:
    for spelling in _SPELLINGS:
        spelled = [spelling(other) for other in others]
        if spelling(name) in spelled:
            return spelled.index(spelling(name))
    return None
