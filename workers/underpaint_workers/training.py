"""One training run: paintings and labels in, a checkpoint out."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor, nn

from underpaint.checkpoints.checkpoint import Card, Checkpoint
from underpaint.labelstudio.class_mapping import ClassMapping
from underpaint.segmenter.architecture import least_side
from underpaint.segmenter.channels import normalise
from underpaint.segmenter.segmenter import STRIDE, Segmenter, resolve_device
from underpaint_workers.augmentation import SCALES, Augmentation, shrink
from underpaint_workers.curriculum import Curriculum, paint_scenes
from underpaint_workers.dataset import RGB, Item
from underpaint_workers.distributed import Group
from underpaint_workers.evaluation import evaluate
from underpaint_workers.initialisation import fits, from_imagenet, from_parent
from underpaint_workers.losses import Loss, class_shares, class_weights
from underpaint_workers.resume import Keeper, State
from underpaint_workers.sampling import Sampler
from underpaint_workers.stopping import EarlyStopping
from underpaint_workers.strategies import FEW, HalfWay, Strategy, choose, fold_layer, select, set_training
from underpaint_workers.train_settings import TrainSettings

log = logging.getLogger(__name__)

WARM_UP = 0.1  # share of the run in which the rate rises
WEIGHT_DECAY = 0.01
AVERAGED = 0.05  # share of a run over which its weights are averaged
LOOKS = 10  # looks at the validation paintings in a run


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
    scores: tuple[float, ...] = ()
    """mIoU (0–1) at each look at the validation paintings so far."""

    @property
    def validation_miou(self) -> float | None:
        """mIoU (0–1) at the last look at the validation paintings."""
        return self.scores[-1] if self.scores else None


def train(
    items: Iterable[Item],
    classes: Sequence[str],
    parent: Checkpoint | None,
    settings: TrainSettings,
    *,
    mapping: ClassMapping | None = None,
    validation: Sequence[Item] = (),
    snapshot: str = "",
    progress: Callable[[Progress], None] | None = None,
    keeper: Keeper | None = None,
) -> Checkpoint:
    """Train a segmenter of `classes` on `items`, whose class maps hold ids of `classes`.

    It starts from `parent`'s weights where that has the settings' net, else from ImageNet's; `mapping` is that of the
    parent's classes to `classes`, if more than their names say so. With `validation` paintings, the run stops early
    when they stop gaining, and its best weights are kept. Equal input gives equal weights on the CPU of one machine,
    unless the time runs out. `snapshot` is noted on the card. With a `keeper`, it goes on where a training was killed
    that kept its state there. Without a parent, the settings' `scenes` are learned from too, where the classes are a
    landscape's: the first crops are all theirs, and then few. What `progress` raises ends it. In a group of
    processes that are all given the same (:mod:`~underpaint_workers.distributed`), each takes a part of every batch.

    Raises:
        ValueError: there are no items, the settings name a net or a device that is not to be had, or the loss diverges.
    """
    started = time.monotonic()
    group = Group.current()
    device = resolve_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if device.startswith("cuda"):
        torch.cuda.set_per_process_memory_fraction(settings.gpu_memory, torch.device(device).index)
    torch.manual_seed(settings.seed)
    paintings = [shrink(item, settings.largest_side) for item in items]
    if not paintings:
        raise ValueError("There are no paintings to train on: accept some labels first.")
    kinds = {(str(image.dtype), image.shape[2]) for image, _ in paintings}
    if len(kinds) > 1:
        found = " and ".join(f"{dtype} with {channels} channels" for dtype, channels in sorted(kinds))
        raise ValueError(f"The images are of several kinds ({found}): train on one kind, or convert the others.")
    channels = paintings[0][0].shape[2]
    if parent and not fits(parent.card, settings.architecture, settings.encoder, settings.options, channels):
        parent = None  # its weights fit no other net
    mapping = (mapping or ClassMapping.of(classes, parent.card.classes)) if parent else None
    strategy = choose(settings.strategy, len(paintings), parent is not None, _seen(paintings, mapping))
    if parent and mapping:
        module, card = from_parent(parent, tuple(classes), strategy, settings.image_size, paintings, mapping)
    else:
        module, card = from_imagenet(
            _card(tuple(classes), channels, settings), strategy, paintings, settings.allow_noncommercial
        )
    module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    back = HalfWay(module, mapping.sources) if mapping and len(paintings) < FEW else None
    select(module, strategy)
    set_training(module)
    scenes = paint_scenes(classes, settings) if parent is None and kinds == {("uint8", RGB)} else []
    curriculum = Curriculum.beside_paintings(len(paintings)) if scenes else Curriculum()
    shares = [class_shares((torch.from_numpy(ids) for _, ids in each), len(classes)) for each in (paintings, scenes)]
    weight = class_weights(shares[0].lerp(shares[1], curriculum.beside), settings.class_weight)
    criterion = Loss(weight.to(device), settings.smoothing, settings.lovasz, settings.dice)
    crops = curriculum.passes * settings.epochs * len(paintings)
    steps = math.ceil(max(settings.min_steps, math.ceil(crops / settings.batch_size)) / (1 - curriculum.first))
    random = np.random.default_rng(settings.seed)
    state = State(
        module,
        average=deepcopy(module),
        optimizer=_optimizer(module, settings),
        sampler=_sampler(paintings, len(classes), card, settings, random),
        scenes=_sampler(scenes, len(classes), card, settings, random) if scenes else None,
        stopping=EarlyStopping(settings.patience),
    )
    if keeper and keeper.restore(state) and progress:
        progress(_progress(state, steps, len(paintings), settings))
    if not group.is_first:
        torch.manual_seed((settings.seed + state.step) * group.size + group.rank)  # to drop out other features

    started -= state.seconds
    while state.done < min(1, settings.stop_after) and not state.stopping.hopeless:
        rate = _rate(curriculum.within_part(state.done + 0.5 / steps))
        for parameters in state.optimizer.param_groups:
            parameters["lr"] = parameters["peak"] * rate
        state.step += 1
        share = curriculum.share(state.done)
        images, class_maps = state.sampler.batch(settings.batch_size, state.scenes, share)
        state.loss = _backward(state, images, class_maps, criterion, card, group)
        if not math.isfinite(state.loss):
            raise ValueError(
                f"The loss diverged at step {state.step}: lower the learning rate, or look for broken images."
            )
        state.optimizer.step()
        state.seconds = group.agree(time.monotonic() - started)
        # Where the time is short, the schedule follows the clock, so that it comes to its end all the same.
        before, state.done = state.done, max(state.step / steps, state.seconds / (settings.minutes * 60))
        _move(state.average, module, 1 - math.exp((before - state.done) / AVERAGED))
        if validation and state.done * LOOKS >= len(state.stopping.scores) + 1:
            challenger = _finished(state.average, strategy, card, back)
            miou = evaluate(Segmenter(challenger, device), validation, classes).miou if group.is_first else 0.0
            state.stopping.look(challenger, group.agree(miou))
        if keeper:
            keeper.keep(state)
        if progress:
            progress(_progress(state, steps, len(paintings), settings))
    if keeper:
        keeper.keep(state, now=True)  # what follows may be killed as well

    made = state.stopping.best or _finished(state.average, strategy, card, back)
    facts = {
        "steps": state.step,
        "strategy": strategy,
        "paintings": len(paintings),
        "processes": group.size,
        "scenes": len(scenes),
    }
    card = replace(
        made.card,
        snapshot=snapshot,
        seconds=round(state.seconds, 1),
        device=device,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=asdict(settings) | facts,
    )
    return replace(made, card=card)


def _progress(state: State, steps: int, paintings: int, settings: TrainSettings) -> Progress:
    in_time = state.step * settings.minutes * 60 / state.seconds if state.seconds else math.inf
    last = max(state.step, math.ceil(settings.stop_after * min(steps, max(state.step, in_time))))
    epoch = paintings / settings.batch_size
    return Progress(
        epoch=math.ceil(state.step / epoch),
        epochs=math.ceil(last / epoch),
        step=state.step,
        steps=last,
        loss=state.loss,
        seconds=state.seconds,
        eta_seconds=(last - state.step) * state.seconds / max(1, state.step),
        scores=tuple(state.stopping.scores),
    )


def _backward(state: State, images: Tensor, class_maps: Tensor, criterion: Loss, card: Card, group: Group) -> float:
    """The loss of a batch, of which each process of the group takes its part; its gradients are then with the weights.

    Where a device lacks the memory, what it takes goes through it in halves, from then on.

    Raises:
        ValueError: it lacks the memory for a single crop.
    """
    size = len(images)
    images, class_maps = group.part(images).contiguous(memory_format=torch.channels_last), group.part(class_maps)
    while True:
        state.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        try:
            for image, ids in zip(images.chunk(state.parts), class_maps.chunk(state.parts), strict=True):
                logits = state.module(normalise(image.to(state.device), card.mean, card.std))
                loss = criterion(logits, ids.to(state.device)) * (len(image) / size)
                loss.backward()
                total += loss.item()
            break
        except torch.cuda.OutOfMemoryError as error:
            if state.parts >= len(images):
                raise ValueError(
                    f"{state.device} has no memory for a single crop of {images.shape[-1]} pixels: free some of it, "
                    "lower UNDERPAINT_IMAGE_SIZE, or set UNDERPAINT_DEVICE=cpu."
                ) from error
            state.parts *= 2
        # Here rather than where it was caught: the error holds on to the tensors of the failed pass.
        torch.cuda.empty_cache()
        log.warning("%s ran out of memory: batches go through it in %d parts now", state.device, state.parts)
    return group.add_up(state.module, total)


def _seen(paintings: Sequence[Item], mapping: ClassMapping | None) -> float:
    """Share (0–1) of the classes that the parent knows of which there are pixels; 1 without a parent."""
    known = {index for index, sources in enumerate(mapping.sources) if sources} if mapping else set()
    labelled = set().union(*(np.unique(ids).tolist() for _, ids in paintings))
    return len(labelled & known) / len(known) if known else 1.0


def _card(classes: tuple[str, ...], channels: int, settings: TrainSettings) -> Card:
    """The card of the net that the settings ask for, before anything is known about its weights."""
    return Card(
        architecture=settings.architecture,
        options=settings.options,
        encoder=settings.encoder,
        classes=classes,
        image_size=settings.image_size,
        channels=channels,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )


@torch.no_grad()
def _move(average: nn.Module, module: nn.Module, share: float) -> None:
    """Move each of the averaged weights by `share` (0–1) of the way to the present ones."""
    for mean, now in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        mean.copy_(mean.lerp(now, share) if mean.is_floating_point() else now)


def _finished(average: nn.Module, strategy: Strategy, card: Card, back: HalfWay | None) -> Checkpoint:
    average = deepcopy(average)
    if back:
        back(average)
    if strategy == "extra":
        fold_layer(average)
    return Checkpoint.from_module(average, card)


def _optimizer(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    learning = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    encoder = [value for name, value in learning if name.startswith("encoder.")]
    others = [value for name, value in learning if not name.startswith("encoder.")]
    groups = [{"params": encoder, "peak": settings.lr * settings.encoder_rate}, {"params": others, "peak": settings.lr}]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=settings.lr, weight_decay=WEIGHT_DECAY, fused=True)


def _rate(done: float) -> float:
    """Learning rate, relative to its peak, at `done` (0–1) of the run: a linear rise, then half a cosine."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP))))


def _sampler(
    paintings: list[Item], classes: int, card: Card, settings: TrainSettings, random: np.random.Generator
) -> Sampler:
    """Draws crops whose side is a multiple of the encoder's stride."""
    tensors = [(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(ids)) for image, ids in paintings]
    crop = max(least_side(card.architecture), min(settings.crop_size, settings.image_size))
    crop = math.ceil(crop / STRIDE) * STRIDE
    low, high = (scale * settings.image_size / crop for scale in SCALES)
    return Sampler(tensors, classes, Augmentation(crop, (low, high)), settings.rare, random)
