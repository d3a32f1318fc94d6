"""The base segmenter, which serves a project until its first training.

It comes with the package and knows the nine landscape classes. ``BASE.md`` beside it says what it was made from, how
well it does and what it can't do.
"""

from functools import cache
from pathlib import Path

from underpaint.checkpoints import Checkpoint, StoreError
from underpaint.checkpoints.folder import FILES, FolderError, read

FOLDER = Path(__file__).parent


@cache
def load(which: str = "shipped") -> Checkpoint | None:
    """The base that ``which`` names, as ``UNDERPAINT_BASE`` does: ``shipped``, ``none``, or a checkpoint's folder.

    Read once a process. None for ``none``, and for ``shipped`` where the package was built without its weights. Raises
    ``StoreError`` when the folder holds no checkpoint that can be read.
    """
    if which == "none":
        return None
    folder = FOLDER if which == "shipped" else Path(which)
    if which == "shipped" and not all((folder / name).exists() for name in FILES):
        return None
    try:
        return read(folder)
    except FolderError as error:
        raise StoreError(
            f"The base can't be read. {error} Set UNDERPAINT_BASE to a folder with card.json and model.safetensors, to "
            "`shipped` or to `none`."
        ) from error
