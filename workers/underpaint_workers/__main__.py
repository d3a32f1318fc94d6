"""``python -m underpaint_workers``: an RQ worker in the foreground, also as ``underpaint work``."""

import os

from underpaint.settings import get_settings
from underpaint.signals import Signals
from underpaint_workers.worker import log_to_stderr, work

# People wait for predictions; nobody waits for a retrain. Added to this process's niceness.
NICENESS = 10


def main() -> None:
    """Run jobs until interrupted."""
    log_to_stderr()
    os.nice(NICENESS)
    settings = get_settings()
    signals = Signals(settings.redis_url, settings.queue)
    work(signals.queue)


if __name__ == "__main__":
    main()
