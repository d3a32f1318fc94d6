"""A checkpoint as a folder of its own, beside those in a store: ``model.safetensors`` and ``card.json``."""

import uuid
from pathlib import Path

from underpaint.checkpoints.checkpoint import Card, CardError, Checkpoint

FILES = ("model.safetensors", "card.json")


class FolderError(ValueError):
    """A folder holds no checkpoint, or one that must not be replaced; the message says what to do."""


def read(folder: Path) -> Checkpoint:
    """The checkpoint in ``folder``.

    Raises:
        FolderError: a file is missing, or the card cannot be read.
    """
    try:
        card = Card.from_json((folder / "card.json").read_text("utf-8"))
        return Checkpoint(card, (folder / "model.safetensors").read_bytes())
    except FileNotFoundError as error:
        raise FolderError(f"{error.filename} is missing: name a folder that `underpaint train --out` wrote.") from error
    except (CardError, OSError, UnicodeDecodeError) as error:
        raise FolderError(f"{folder / 'card.json'}: {error}") from error


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Make ``folder`` hold ``checkpoint``: each file whole or not at all, the card last.

    Raises:
        FolderError: it holds one already.
    """
    check_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in zip(FILES, (checkpoint.weights, checkpoint.card.to_json().encode()), strict=True):
        temporary = folder / f".{name}.{uuid.uuid4().hex}"
        try:
            temporary.write_bytes(data)
            temporary.replace(folder / name)
        finally:
            temporary.unlink(missing_ok=True)


def check_free(folder: Path) -> None:
    """Raise FolderError if ``folder`` holds a checkpoint: those never change."""
    if (folder / "card.json").exists():
        raise FolderError(f"{folder} holds a checkpoint already, and those never change: name a new folder.")
