"""One training run: paintings and labels in, a checkpoint out."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from underpaint.checkpoints.checkpoint import Card, Checkpoint
from underpaint.segmenter.architecture import Architecture, build
from underpaint.segmenter.channels import normalise, statistics
from underpaint.segmenter.encoder_weights import load_imagenet
from underpaint.segmenter.segmenter import Segmenter, resolve_device
from underpaint.settings import Settings
from underpaint.taxonomy import corresponding
from underpaint_workers.augmentation import SCALES, Augmentation, shrink
from underpaint_workers.dataset import Item
from underpaint_workers.evaluation import evaluate
from underpaint_workers.losses import Loss, class_weights
from underpaint_workers.mixing import classmix
from underpaint_workers.sampling import Sampler
from underpaint_workers.stopping import EarlyStopping
from underpaint_workers.strategies import Strategy, add_layer, choose, fold_layer, select, set_training

WARM_UP = 0.1  # share of the run in which the rate rises
WEIGHT_DECAY = 0.01
AVERAGED = 0.05  # share of the run over which the weights are averaged
LOOKS = 10  # looks at the validation paintings in a run


@dataclass(frozen=True)
class TrainSettings:
    """What one training run may do."""

    strategy: Strategy | Literal["auto"] = "auto"
    """What learns; ``auto`` lets the labels decide (:func:`~underpaint_workers.strategies.choose`)."""
    epochs: int = 70
    """Passes over the paintings, where the time allows."""
    min_steps: int = 250
    """Fewest steps, so that a handful of paintings is learned from as well; more passes make them up."""
    minutes: float = 20.0
    """Longest time to train; the schedule fits itself to it."""
    stop_after: float = 1.0
    """Share (0–1) of the run after which it ends, its rate not yet at zero."""
    folds: int = 0
    """Parts of the paintings to leave out in turn, as :func:`~underpaint_workers.folds.train_by_folds` does."""
    patience: int = 5
    """Looks at the validation paintings without a gain, of ten in a run, after which it stops."""
    image_size: int = 320
    """Longer side, in pixels, at which the segmenter sees a painting."""
    crop_size: int = 256
    """Side of the crops it learns from, in pixels; no more than ``image_size`` is used."""
    batch_size: int = 4
    lr: float = 1e-3
    """Peak learning rate."""
    encoder_rate: float = 0.1
    """The encoder's learning rate relative to the others', for it comes trained."""
    rare: float = 0.5
    """Share (0–1) of crops that are drawn to hold a rare class."""
    classmix: float = 0.0
    """Share (0–1) of batches whose paintings are mixed by class."""
    class_weight: float = 0.5
    """Power of a class's share of pixels by which its pixels count less: 0 for all alike, 1 for all classes alike."""
    smoothing: float = 0.05
    """Label smoothing (0–1)."""
    lovasz: float = 0.5
    """Weight of the Lovász-softmax loss beside cross-entropy."""
    dice: float = 0.0
    """Weight of the Dice loss beside cross-entropy."""
    seed: int = 0
    architecture: str = "Hypercolumn"
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the architecture, as segmentation-models-pytorch names them."""
    encoder: str = "tu-tf_efficientnet_lite0"
    device: str = "auto"
    threads: int | None = None
    """CPU threads; None leaves torch's choice."""
    allow_noncommercial: bool = False

    @classmethod
    def of(cls, settings: Settings) -> "TrainSettings":
        """What the settings of this process say."""
        return cls(
            strategy=settings.train_strategy,
            epochs=settings.train_epochs,
            min_steps=settings.train_min_steps,
            minutes=settings.train_minutes,
            folds=settings.train_folds,
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
    looks: int = 0
    """Looks at the validation paintings so far."""
    validation_miou: float | None = None
    """mIoU (0–1) at the last look at the validation paintings."""


def train(
    items: Iterable[Item],
    classes: Sequence[str],
    parent: Checkpoint | None,
    settings: TrainSettings,
    *,
    validation: Sequence[Item] = (),
    snapshot: str = "",
    progress: Callable[[Progress], None] | None = None,
) -> Checkpoint:
    """Train a segmenter of `classes` on `items`, whose class maps hold ids of `classes`.

    It starts from `parent`'s weights where that has the settings' net, else from ImageNet's. With `validation`
    paintings, the run stops early when they stop gaining, and its best weights are kept. Equal input gives equal
    weights on the CPU of one machine, unless the time runs out. `snapshot` is noted on the card.

    Raises:
        ValueError: there are no items, the settings name a net or a device that is not to be had, or the loss diverges.
    """
    started = time.monotonic()
    device = resolve_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    paintings = [shrink(item, round(settings.image_size * SCALES[1])) for item in items]
    if not paintings:
        raise ValueError("There are no paintings to train on: accept some labels first.")
    if parent and not _fits(parent.card, paintings[0][0].shape[2], settings):
        parent = None  # its weights fit no other net
    strategy = choose(settings.strategy, len(paintings), parent is not None)
    module, card = _initialise(tuple(classes), parent, strategy, paintings, settings)
    module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    select(module, strategy)
    set_training(module)
    optimizer = _optimizer(module, settings)
    weight = class_weights((torch.from_numpy(ids) for _, ids in paintings), len(classes), settings.class_weight)
    criterion = Loss(weight.to(device), settings.smoothing, settings.lovasz, settings.dice)
    batch_size = min(settings.batch_size, len(paintings))
    batches = _batches(paintings, len(classes), batch_size, settings)
    steps = max(settings.min_steps, math.ceil(settings.epochs * len(paintings) / batch_size))
    decay = 1 - 1 / max(1.0, AVERAGED * steps)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    stopping = EarlyStopping(settings.patience)

    limit = settings.minutes * 60
    seconds = time.monotonic() - started
    for step in range(1, steps + 1):
        # Where the time is short, the schedule follows the clock, so that it comes to its end all the same.
        done = max((step - 0.5) / steps, seconds / limit)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _rate(done)
        images, class_maps = (tensor.to(device) for tensor in next(batches))
        loss = criterion(module(normalise(images, card.mean, card.std)), class_maps)
        if not loss.isfinite():
            raise ValueError(f"The loss diverged at step {step}: lower the learning rate, or look for broken images.")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        average.update_parameters(module)
        done = max(step / steps, seconds / limit)
        # By the share done, not by steps, so that a run that the clock cuts short has as many looks.
        if validation and done * LOOKS >= stopping.looks + 1:
            challenger = _finished(average, strategy, card)
            stopping.look(challenger, evaluate(Segmenter(challenger, device), validation, classes).miou)
        seconds = time.monotonic() - started
        if progress:
            shown = _progress(step, steps, len(paintings) / batch_size, seconds, limit)
            progress(replace(shown, loss=loss.item(), looks=stopping.looks, validation_miou=stopping.last))
        if seconds >= limit or done >= settings.stop_after or stopping.hopeless:
            break

    made = stopping.best or _finished(average, strategy, card)
    facts = {"steps": step, "strategy": strategy, "paintings": len(paintings)}
    card = replace(
        made.card,
        snapshot=snapshot,
        seconds=round(seconds, 1),
        device=device,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=asdict(settings) | facts,
    )
    return replace(made, card=card)


def _fits(card: Card, channels: int, settings: TrainSettings) -> bool:
    wanted = (settings.architecture, settings.options, settings.encoder, channels)
    return (card.architecture, card.options, card.encoder, card.channels) == wanted


def _initialise(
    classes: tuple[str, ...],
    parent: Checkpoint | None,
    strategy: Strategy,
    paintings: list[Item],
    settings: TrainSettings,
) -> tuple[nn.Module, Card]:
    """The net to train, and the card of what it will be."""
    if parent:
        card = replace(parent.card, classes=classes, image_size=settings.image_size, parent=parent.version, metrics={})
        matches = corresponding(classes, parent.card.classes)
        module = parent.module()
        if strategy == "extra":
            add_layer(module, matches)
            return module, card
        fresh = _build(card, allow_noncommercial=True)  # the licence was asked about when the parent was trained
        fresh.load_state_dict(_recut(module.state_dict(), fresh.state_dict(), matches))
        return fresh, card
    first, _ = paintings[0]
    # Above a decoder that nobody trained, one layer cannot learn: it gets the encoder's own features.
    bare = strategy == "final"
    card = Card(
        architecture="Hypercolumn" if bare else settings.architecture,
        options={"decoder_channels": 0} if bare else settings.options,
        encoder=settings.encoder,
        classes=classes,
        image_size=settings.image_size,
        channels=first.shape[2],
        mean=(0.0,) * first.shape[2],
        std=(1.0,) * first.shape[2],
    )
    module = _build(card, settings.allow_noncommercial)
    pretraining = load_imagenet(module.get_submodule("encoder"), settings.encoder, card.channels)
    mean, std = pretraining.mean, pretraining.std
    if card.channels != 3 or first.dtype != np.uint8:  # what ImageNet's pictures looked like means nothing then
        mean, std = statistics(image for image, _ in paintings)
    return module, replace(card, mean=mean, std=std, licences=pretraining.licences)


def _build(card: Card, allow_noncommercial: bool) -> nn.Module:
    net = Architecture(
        name=card.architecture,
        encoder=card.encoder,
        classes=card.classes,
        channels=card.channels,
        options=card.options,
    )
    return build(net, allow_noncommercial)


def _recut(parent: dict[str, Tensor], fresh: dict[str, Tensor], matches: Sequence[int | None]) -> dict[str, Tensor]:
    """The parent's weights with a head for other classes: its rows for those it knows, fresh ones for the others."""
    weights = dict(parent)
    for name, rows in fresh.items():
        if name.startswith("segmentation_head.") and rows.shape[:1] == (len(matches),):
            kept = [
                fresh_row if old is None else parent[name][old] for fresh_row, old in zip(rows, matches, strict=True)
            ]
            weights[name] = torch.stack(kept)
    return weights


def _finished(average: AveragedModel, strategy: Strategy, card: Card) -> Checkpoint:
    module = average.module
    if strategy == "extra":
        module = deepcopy(module)
        fold_layer(module)
    return Checkpoint.from_module(module, card)


def _optimizer(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    learning = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    encoder = [value for name, value in learning if name.startswith("encoder.")]
    others = [value for name, value in learning if not name.startswith("encoder.")]
    groups = [{"params": encoder, "peak": settings.lr * settings.encoder_rate}, {"params": others, "peak": settings.lr}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.lr, weight_decay=WEIGHT_DECAY)


def _rate(done: float) -> float:
    """Learning rate, relative to its peak, at `done` (0–1) of the run: a linear rise, then half a cosine."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP))))


def _batches(
    paintings: list[Item], classes: int, size: int, settings: TrainSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of images (size, C, S, S) and class maps (size, S, S)."""
    random = np.random.default_rng(settings.seed)
    tensors = [(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(ids)) for image, ids in paintings]
    crop = min(settings.crop_size, settings.image_size)
    low, high = (scale * settings.image_size / crop for scale in SCALES)
    sampler = Sampler(tensors, classes, Augmentation(crop, (low, high)), settings.rare, random)
    while True:
        images, class_maps = sampler.batch(size)
        if random.random() < settings.classmix:
            images, class_maps = classmix(images, class_maps, random)
        yield images.contiguous(memory_format=torch.channels_last), class_maps


def _progress(step: int, steps: int, steps_an_epoch: float, seconds: float, limit: float) -> Progress:
    in_time = min(steps, max(step, int(step * limit / seconds)))
    return Progress(
        epoch=math.ceil(step / steps_an_epoch),
        epochs=math.ceil(in_time / steps_an_epoch),
        step=step,
        steps=in_time,
        loss=math.nan,
        seconds=seconds,
        eta_seconds=(in_time - step) * seconds / step,
    )
