"""``python -m underpaint_workers.rank FOLDER``: one of the processes of a training, started by torchrun."""

import os
import pickle
import sys
import traceback
from pathlib import Path
from typing import BinaryIO

from underpaint.orphans import end_with_parent
from underpaint_workers.precedence import step_back

ERROR = "error-*.pickle"
"""Where a process that failed leaves the exception."""


def main() -> None:
    """Train; the first process writes its progress and the checkpoint to standard output, pickled."""
    if not end_with_parent():
        sys.exit(1)
    step_back(0)  # torchrun has begun a session for it
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no message
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    try:
        _train(folder, rank, messages)
    except Exception as error:
        error.add_note(f"in process {rank} of the training:\n{traceback.format_exc()}")
        (folder / ERROR.replace("*", str(rank))).write_bytes(pickle.dumps(error))
        sys.exit(1)


def _train(folder: Path, rank: int, messages: BinaryIO) -> None:
    import logging

    import torch
    from torch import distributed

    from underpaint.segmenter.segmenter import resolve_device
    from underpaint_workers.assignment import Assignment
    from underpaint_workers.folds import train_by_folds
    from underpaint_workers.training import Progress
    from underpaint_workers.worker import log_to_stderr

    def tell(progress: Progress) -> None:
        pickle.dump(progress, messages)
        messages.flush()
        if not sys.stdin.buffer.read(1):
            raise EOFError("the process that this training is for has ended")

    facts, items, validation = Assignment.read(folder)
    log_to_stderr(logging.WARNING if rank else facts.log_level)
    on_gpu = resolve_device(facts.settings.device) == "cuda"
    if on_gpu:
        torch.cuda.set_device(rank)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    checkpoint = train_by_folds(
        items,
        facts.classes,
        facts.parent,
        facts.settings,
        mapping=facts.mapping,
        validation=validation,
        snapshot=facts.snapshot,
        progress=None if rank else tell,
        keeper=facts.keeper.reading() if facts.keeper and rank else facts.keeper,
    )
    distributed.destroy_process_group()
    if not rank:
        pickle.dump(checkpoint, messages)
        messages.flush()


if __name__ == "__main__":
    main()
