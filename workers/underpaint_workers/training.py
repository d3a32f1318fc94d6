"""One training run: paintings and labels in, a checkpoint out."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import torch
from torch import Tensor, nn
from torch.nn import functional

from underpaint.checkpoints.checkpoint import Card, Checkpoint
from underpaint.segmenter.architecture import Architecture, build
from underpaint.segmenter.encoder_weights import Pretraining, load_imagenet
from underpaint.segmenter.segmenter import resolve_device
from underpaint.settings import Settings
from underpaint.taxonomy import UNLABELLED, corresponding
from underpaint_workers.augmentation import SCALES, Augmentation, shrink
from underpaint_workers.dataset import Item

ENCODER_RATE = 0.1  # the encoder learns at a tenth of the rate, for it comes trained
WARM_UP = 0.1  # share of the run in which the rate rises
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class TrainSettings:
    """What one training run may do."""

    epochs: int = 40
    """Passes over the paintings, where the time allows."""
    min_steps: int = 200
    """Fewest steps, so that a handful of paintings is learned from as well; more passes make them up."""
    minutes: float = 20.0
    """Longest time to train; the schedule fits itself to it."""
    image_size: int = 256
    """Longer side, in pixels, at which the segmenter sees a painting."""
    batch_size: int = 4
    lr: float = 1e-3
    """Peak learning rate."""
    seed: int = 0
    architecture: str = "FPN"
    encoder: str = "tu-tf_efficientnet_lite0"
    device: str = "auto"
    threads: int | None = None
    """CPU threads; None leaves torch's choice."""
    allow_noncommercial: bool = False

    @classmethod
    def of(cls, settings: Settings) -> "TrainSettings":
        """What the settings of this process say."""
        return cls(
            epochs=settings.train_epochs,
            min_steps=settings.train_min_steps,
            minutes=settings.train_minutes,
            image_size=settings.image_size,
            architecture=settings.architecture,
            encoder=settings.encoder,
            device=settings.device,
            allow_noncommercial=settings.allow_noncommercial,
        )


@dataclass(frozen=True)
class Progress:
    """How far a run is, after a step."""

    epoch: int
    epochs: int
    step: int
    steps: int
    """Steps that the run will take, as far as its pace so far can tell."""
    loss: float
    seconds: float
    eta_seconds: float


def train(
    items: Iterable[Item],
    classes: Sequence[str],
    parent: Checkpoint | None,
    settings: TrainSettings,
    *,
    snapshot: str = "",
    progress: Callable[[Progress], None] | None = None,
) -> Checkpoint:
    """Train a segmenter of `classes` on `items`, whose class maps hold ids of `classes`.

    It starts from `parent`'s weights where that has the settings' architecture and encoder, else from ImageNet's. Equal
    input gives equal weights on the CPU of one machine, unless the time runs out. `snapshot` is noted on the card.

    Raises:
        ValueError: there are no items, or the settings name a net or a device that is not to be had.
    """
    started = time.monotonic()
    device = resolve_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    paintings = [_prepare(item, settings.image_size) for item in items]
    if not paintings:
        raise ValueError("There are no paintings to train on: accept some labels first.")
    if parent and (parent.card.architecture, parent.card.encoder) != (settings.architecture, settings.encoder):
        parent = None  # its weights fit no other net
    module, pretraining = _initialise(tuple(classes), parent, settings)
    module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _set_training(module)
    optimizer = _optimizer(module, settings.lr)
    weight = _class_weights([class_map for _, class_map in paintings], len(classes)).to(device)
    mean, std = (
        (torch.tensor(channels, device=device) * 255).view(3, 1, 1) for channels in (pretraining.mean, pretraining.std)
    )

    batch_size = min(settings.batch_size, len(paintings))
    batches = _batches(paintings, batch_size, settings.image_size)
    steps = max(settings.min_steps, math.ceil(settings.epochs * len(paintings) / batch_size))
    limit = settings.minutes * 60
    seconds = time.monotonic() - started
    for step in range(1, steps + 1):
        # Where the time is short, the schedule follows the clock, so that it comes to its end all the same.
        done = max((step - 0.5) / steps, seconds / limit)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _rate(done)
        images, class_maps = (tensor.to(device) for tensor in next(batches))
        logits = module((images - mean) / std)
        loss = functional.cross_entropy(logits, class_maps.long(), weight, ignore_index=UNLABELLED)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seconds = time.monotonic() - started
        if progress:
            progress(_progress(step, steps, len(paintings) / batch_size, loss.item(), seconds, limit))
        if seconds >= limit:
            break

    card = Card(
        architecture=settings.architecture,
        encoder=settings.encoder,
        classes=tuple(classes),
        image_size=settings.image_size,
        mean=pretraining.mean,
        std=pretraining.std,
        parent=parent.version if parent else None,
        snapshot=snapshot,
        seconds=round(seconds, 1),
        device=device,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        licences=pretraining.licences,
        settings=asdict(settings),
    )
    return Checkpoint.from_module(module, card)


def _prepare(item: Item, image_size: int) -> tuple[Tensor, Tensor]:
    """Image uint8 (3, H, W) and class map uint8 (H, W), no larger than augmentation can make use of."""
    image, class_map = shrink(item, round(image_size * SCALES[1]))
    return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(class_map)


def _initialise(
    classes: tuple[str, ...], parent: Checkpoint | None, settings: TrainSettings
) -> tuple[nn.Module, Pretraining]:
    architecture = Architecture(name=settings.architecture, encoder=settings.encoder, classes=classes)
    module = build(architecture, settings.allow_noncommercial)
    if parent:
        module.load_state_dict(_recut(parent, module, classes))
        return module, Pretraining(parent.card.mean, parent.card.std, parent.card.licences)
    return module, load_imagenet(module.get_submodule("encoder"), settings.encoder)


def _recut(parent: Checkpoint, module: nn.Module, classes: tuple[str, ...]) -> dict[str, Tensor]:
    """The parent's weights with a head for `classes`: its rows for those it knows, `module`'s for the others."""
    matches = corresponding(classes, parent.card.classes)
    known = [(new, old) for new, old in enumerate(matches) if old is not None]
    weights = parent.module().state_dict()
    for name, fresh in module.state_dict().items():
        if name.startswith("segmentation_head.") and weights[name].shape[:1] == (len(parent.card.classes),):
            rows = fresh.clone()
            for new, old in known:
                rows[new] = weights[name][old]
            weights[name] = rows
    return weights


def _set_training(module: nn.Module) -> None:
    module.train()
    # A few paintings cannot estimate better statistics than those the encoder came with.
    for each in module.get_submodule("encoder").modules():
        if isinstance(each, nn.BatchNorm2d):
            each.eval()


def _optimizer(module: nn.Module, lr: float) -> torch.optim.Optimizer:
    encoder = list(module.get_submodule("encoder").parameters())
    others = [value for name, value in module.named_parameters() if not name.startswith("encoder.")]
    groups = [{"params": encoder, "peak": lr * ENCODER_RATE}, {"params": others, "peak": lr}]
    return torch.optim.AdamW(groups, lr=lr, weight_decay=WEIGHT_DECAY)


def _class_weights(class_maps: list[Tensor], classes: int) -> Tensor:
    """Weights (classes,) by the inverse square root of how frequent a class is, 1 for the average pixel."""
    counts = sum(
        (torch.bincount(each.flatten().long(), minlength=256)[:classes].double() for each in class_maps),
        torch.zeros(classes, dtype=torch.double),
    )
    share = counts / counts.sum().clamp(min=1)
    weight = share.clamp(min=1e-3).rsqrt()
    return (weight / (share * weight).sum().clamp(min=1e-3)).float()


def _rate(done: float) -> float:
    """Learning rate, relative to its peak, at `done` (0–1) of the run: a linear rise, then half a cosine."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP))))


def _batches(paintings: list[tuple[Tensor, Tensor]], size: int, image_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of images (size, 3, S, S) and class maps (size, S, S), pass after pass in random order."""
    augment = Augmentation(image_size)
    order: list[int] = []
    while True:
        while len(order) < size:
            order += torch.randperm(len(paintings)).tolist()
        drawn, order = order[:size], order[size:]
        images, class_maps = zip(*(augment(*paintings[index]) for index in drawn), strict=True)
        yield torch.stack(images).contiguous(memory_format=torch.channels_last), torch.stack(class_maps)


def _progress(step: int, steps: int, steps_an_epoch: float, loss: float, seconds: float, limit: float) -> Progress:
    in_time = min(steps, max(step, int(step * limit / seconds)))
    return Progress(
        epoch=math.ceil(step / steps_an_epoch),
        epochs=math.ceil(in_time / steps_an_epoch),
        step=step,
        steps=in_time,
        loss=loss,
        seconds=seconds,
        eta_seconds=(in_time - step) * seconds / step,
    )
