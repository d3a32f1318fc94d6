"""Which checkpoints may go: those that no project served lately, once nobody can be about to promote them."""

import time

from underpaint.checkpoints.store import PRUNED, Store

DAY = 24 * 3600.0
INTERRUPTED_SECONDS = 3600.0
"""Age of a mark on a checkpoint that stays, after which whoever put it there was killed."""


def prune(store: Store, keep: int, days: float, *, only_say: bool = False, now: float | None = None) -> list[str]:
    """Remove the checkpoints that are neither among the last ``keep`` that a project served nor ``days`` young.

    Returns their versions. ``keep`` 0 keeps all; ``only_say`` removes nothing. ``now`` is in Unix seconds.

    What serves is never removed, whatever is promoted on other machines meanwhile: the checkpoints are marked, then the
    projects are asked again, and `Store.promote` looks for the mark once its own move can be seen.

    Raises:
        StoreError: the store can't be read or written; a later call does the rest.
    """
    if keep == 0:
        return []
    now = time.time() if now is None else now
    found = {version: files for version, files in store.checkpoints().items() if files.keys() != {PRUNED}}
    served = _served_lately(store, keep)
    doomed = {version for version, files in found.items() if max(files.values()) < now - days * DAY} - served
    if only_say:
        return sorted(doomed)
    for version in doomed:
        store.doom(version)
    spared = doomed & _served_lately(store, keep) if doomed else set()
    for version in doomed - spared:
        store.prune(version)
    left = {version for version in served & found.keys() if found[version].get(PRUNED, now) < now - INTERRUPTED_SECONDS}
    for version in spared | left:
        store.spare(version)
    return sorted(doomed - spared)


def _served_lately(store: Store, keep: int) -> set[str]:
    return {version for project in store.projects() for version in store.served(project)[:keep]}
