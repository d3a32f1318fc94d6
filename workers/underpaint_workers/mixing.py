"""Paintings mixed within a batch: each takes over pieces of the next one, and their labels with them."""

from collections.abc import Collection

import cv2
import numpy as np
import torch
from torch import Tensor

from underpaint.taxonomy import UNLABELLED

_LEAST_PIXELS = 16  # smaller pieces are crumbs of a label rather than things


def classmix(images: Tensor, class_maps: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Paste half of the classes of the next image over each (ClassMix; Olsson et al., WACV 2021).

    Images (N, C, H, W) of any dtype and class maps (N, H, W) are left as they are; mixed copies come back. An image
    whose next one has fewer than two classes stays alone, for it would be covered.
    """
    mixed_images, mixed_maps = images.clone(), class_maps.clone()
    for index, following in enumerate(_following(len(images))):
        present = torch.bincount(class_maps[following].flatten(), minlength=256)[:UNLABELLED].nonzero()[:, 0]
        if len(present) < 2 or following == index:
            continue
        chosen = generator.permutation(len(present))[: len(present) // 2]
        mask = torch.isin(class_maps[following], present[torch.from_numpy(chosen).to(present.device)])
        mixed_images[index] = torch.where(mask, images[following], images[index])
        mixed_maps[index] = torch.where(mask, class_maps[following], class_maps[index])
    return mixed_images, mixed_maps


def paste_things(
    images: Tensor,
    class_maps: Tensor,
    things: Collection[int],
    generator: np.random.Generator,
    share: float = 0.1,
    jitter: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Paste things of the next image into each, near their place (Copy-Paste; Ghiasi et al., CVPR 2021).

    A thing is a connected piece of one of the class ids `things` that covers less than `share` of its image; of those
    there are, a random number from one to all is pasted, each moved by up to `jitter` of the image's sides, but not
    out of it. Images (N, C, H, W) of any dtype and class maps (N, H, W) are left as they are; mixed copies come back.
    """
    mixed_images, mixed_maps = images.clone(), class_maps.clone()
    height, width = class_maps.shape[1:]
    for index, following in enumerate(_following(len(images))):
        pieces = _pieces(class_maps[following], things, share) if following != index else []
        if not pieces:
            continue
        count = generator.integers(1, len(pieces), endpoint=True)
        for chosen in generator.permutation(len(pieces))[:count]:
            top, left, mask = pieces[chosen]
            rows, columns = mask.shape
            shift_y, shift_x = generator.uniform(-jitter, jitter, 2) * (height, width)
            y = int(np.clip(round(top + shift_y), 0, height - rows))
            x = int(np.clip(round(left + shift_x), 0, width - columns))
            source = (following, ..., slice(top, top + rows), slice(left, left + columns))
            target = (index, ..., slice(y, y + rows), slice(x, x + columns))
            mixed_images[target] = torch.where(mask, images[source], mixed_images[target])
            mixed_maps[target] = torch.where(mask, class_maps[source], mixed_maps[target])
    return mixed_images, mixed_maps


def _following(count: int) -> list[int]:
    """For each of `count` images, the index of the one it takes from."""
    return [(index + 1) % count for index in range(count)]


def _pieces(class_map: Tensor, things: Collection[int], share: float) -> list[tuple[int, int, Tensor]]:
    """Connected pieces of `things` in a class map (H, W): top, left and a mask, bool (h, w), of each."""
    ids = class_map.cpu().numpy()
    pieces = []
    for thing in sorted(things):
        count, components, boxes, _ = cv2.connectedComponentsWithStats((ids == thing).astype(np.uint8))
        for label in range(1, count):
            left, top, width, height, area = boxes[label].tolist()
            if _LEAST_PIXELS <= area < share * ids.size:
                mask = components[top : top + height, left : left + width] == label
                pieces.append((top, left, torch.from_numpy(mask).to(class_map.device)))
    return pieces
