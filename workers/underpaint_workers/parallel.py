"""A training on all GPUs of a machine: torchrun starts a process for each, and this one looks after them."""

import contextlib
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.labelstudio.class_mapping import ClassMapping
from underpaint.orphans import be_parent
from underpaint.segmenter.segmenter import resolve_device
from underpaint_workers import rank, torchrun
from underpaint_workers.assignment import Assignment
from underpaint_workers.dataset import Item
from underpaint_workers.folds import train_by_folds
from underpaint_workers.resume import Keeper
from underpaint_workers.scratch import scratch
from underpaint_workers.train_settings import TrainSettings
from underpaint_workers.training import Progress


class ProcessKilled(RuntimeError):
    """A process of a training was killed; the training can go on from its last state."""


def process_count(settings: TrainSettings) -> int:
    """Processes that such a training takes: one for each GPU it may use, where the settings don't ask for fewer.

    On the CPU, it is one, where they don't ask for more. There is a crop for each in every batch.
    """
    device, wanted = resolve_device(settings.device), settings.processes
    if device != "cpu":
        devices = torch.cuda.device_count() if device == "cuda" else 1
        wanted = min(wanted or devices, devices)
    return max(1, min(wanted, settings.batch_size))


def train_in_parallel(
    items: Sequence[Item],
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
    """``train_by_folds`` in as many processes as there are GPUs, or in this one where that is enough.

    The result is the same within noise. The processes wait while `progress` runs, and are gone when this returns, or
    raises, or its process is killed.

    Raises:
        ProcessKilled: the system killed one of them.
        ValueError: as ``train`` does.
    """
    count = process_count(settings)
    if count == 1:
        return train_by_folds(
            items,
            classes,
            parent,
            settings,
            mapping=mapping,
            validation=validation,
            snapshot=snapshot,
            progress=progress,
            keeper=keeper,
        )
    log_level = logging.getLogger().getEffectiveLevel()
    with scratch() as folder:
        threads, shared = settings.threads or torch.get_num_threads(), replace(settings, threads=None)
        assignment = Assignment(tuple(classes), parent, mapping, shared, snapshot, keeper, log_level)
        assignment.write(folder, items, validation)
        checkpoint = None
        with _processes(folder, count, threads) as processes:
            for message in _messages(processes):
                if isinstance(message, Checkpoint):
                    checkpoint = message
                elif progress:
                    progress(message)
        if processes.returncode == 0 and checkpoint:
            return checkpoint
        raise _failure(folder, processes.returncode)


@contextlib.contextmanager
def _processes(folder: Path, count: int, threads: int) -> Iterator["subprocess.Popen[bytes]"]:
    """torchrun with its processes, which share the CPU's `threads`, for as long as the block runs."""
    be_parent()
    process = subprocess.Popen(
        [sys.executable, "-m", "underpaint_workers.torchrun", str(folder), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": str(max(1, threads // count))},
        process_group=0,  # a key pressed to interrupt this process is for it alone
    )
    try:
        yield process
        process.wait()
    finally:
        process.kill()
        process.communicate()  # until the last of them has ended, for all hold its pipe


def _messages(processes: "subprocess.Popen[bytes]") -> Iterator[Progress | Checkpoint]:
    """What the first process tells until all have ended; after progress, it waits until the next is asked for."""
    assert processes.stdin
    assert processes.stdout
    while True:
        try:
            message = pickle.load(processes.stdout)
        except (EOFError, pickle.UnpicklingError):  # it was killed, perhaps in the middle of a message
            return
        yield message
        with contextlib.suppress(BrokenPipeError):
            os.write(processes.stdin.fileno(), b".")


def _failure(folder: Path, status: int) -> Exception:
    """Why torchrun ended with this status."""
    if status == torchrun.KILLED or status < 0:
        return ProcessKilled(
            "The system killed one of the training's processes, most likely for want of memory: free some of it, lower "
            "UNDERPAINT_IMAGE_SIZE, or set UNDERPAINT_TRAIN_PROCESSES to 1."
        )
    errors = sorted(folder.glob(rank.ERROR), key=lambda path: path.stat().st_mtime_ns)
    if not errors:
        return RuntimeError(
            f"torchrun ended with status {status}, and its log says why: set UNDERPAINT_TRAIN_PROCESSES to 1 to train "
            "without it."
        )
    first: Exception = pickle.loads(errors[0].read_bytes())  # those of the others follow from it
    return first
