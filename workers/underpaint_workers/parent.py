"""The parent of a training: the checkpoint that its weights start from."""

import numpy as np

from underpaint import base
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.lookup import find
from underpaint.segmenter.channels import Image
from underpaint.settings import Settings
from underpaint_workers.initialisation import is_net

IMAGENET = "imagenet"


def find_parent(
    name: str | None, architecture: str | None, encoder: str | None, image: Image, settings: Settings
) -> Checkpoint | None:
    """The checkpoint to start from, or None for ImageNet's weights.

    `name` is as :func:`~underpaint.checkpoints.lookup.find` takes it, or ``imagenet``. If it is None, that is the base,
    where the base is the net that `architecture` and `encoder`, else the settings, ask for, and sees what `image`
    (H, W, C), the first of the data set, holds: 8 bits and as many channels.

    Raises:
        ValueError: there is no such checkpoint, or it is another net than is asked for, or sees other channels.
    """
    if name == IMAGENET:
        return None
    if name is None:
        first = base.load(settings.base)
        if first is None or image.dtype != np.uint8 or image.shape[2] != first.card.channels:
            return None
        wanted = architecture or settings.architecture, encoder or settings.encoder
        return first if is_net(first.card, *wanted) else None
    parent = find(name, settings)
    wanted = architecture or parent.card.architecture, encoder or parent.card.encoder
    if not is_net(parent.card, *wanted):
        raise ValueError(
            f"The parent {name} is {parent.card.architecture} with {parent.card.encoder}, which gives no weights to "
            f"{' with '.join(wanted)}: leave out --arch and --encoder, or start with --parent imagenet."
        )
    if parent.card.channels != image.shape[2]:
        raise ValueError(
            f"The parent {name} sees {parent.card.channels} channels, and the data set's images have {image.shape[2]}: "
            "name a parent that sees as many, or start with --parent imagenet."
        )
    return parent
