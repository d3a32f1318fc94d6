"""The checkpoint that a person means."""

from pathlib import Path

from underpaint import base
from underpaint.checkpoints import folder
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store, StoreError
from underpaint.settings import Settings

BASE = "base"


class UnknownCheckpoint(ValueError):
    """Nothing goes by the name; the message says what to do."""


def find(name: str, settings: Settings) -> Checkpoint:
    """The checkpoint in the folder ``name``, or ``base``, or a version in the store.

    Raises:
        UnknownCheckpoint: there is none.
        FolderError: the folder holds none that can be read.
    """
    if name == BASE:
        if (found := base.load(settings.base)) is None:
            raise UnknownCheckpoint(
                "There is no base: it is switched off, or this package came without one. Name a folder that "
                "`underpaint train --out` wrote, or a version in the store; train with --parent imagenet."
            )
        return found
    if Path(name).is_dir():
        return folder.read(Path(name))
    try:
        return Store(settings.store).get(name)
    except StoreError as error:
        raise UnknownCheckpoint(
            f"There is no folder {name!r}: name one that `underpaint train --out` wrote, `base`, or a version "
            f"in the store. {error}"
        ) from error
