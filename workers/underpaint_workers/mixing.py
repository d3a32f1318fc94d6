"""Paintings mixed within a batch: each takes over pieces of the next one, and their labels with them."""

import numpy as np
import torch
from torch import Tensor

from underpaint.taxonomy import UNLABELLED


def classmix(images: Tensor, class_maps: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Paste half of the classes of the next image over each (ClassMix; Olsson et al., WACV 2021).

    Images (N, C, H, W) of any dtype and class maps (N, H, W) are left as they are; mixed copies come back. An image
    whose next one has fewer than two classes stays alone, for it would be covered.
    """
    mixed_images, mixed_maps = images.clone(), class_maps.clone()
    for index in range(len(images)):
        following = (index + 1) % len(images)
        present = torch.bincount(class_maps[following].flatten(), minlength=256)[:UNLABELLED].nonzero()[:, 0]
        if len(present) < 2 or following == index:
            continue
        chosen = generator.permutation(len(present))[: len(present) // 2]
        mask = torch.isin(class_maps[following], present[torch.from_numpy(chosen).to(present.device)])
        mixed_images[index] = torch.where(mask, images[following], images[index])
        mixed_maps[index] = torch.where(mask, class_maps[following], class_maps[index])
    return mixed_images, mixed_maps
