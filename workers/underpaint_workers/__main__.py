"""``python -m underpaint_workers``: an RQ worker in the foreground, also as ``underpaint work``."""

import logging
import os

from underpaint.settings import get_settings
from underpaint.signals import Signals
from underpaint_workers.worker import Worker

# People wait for predictions; nobody waits for a retrain. Added to this process's niceness.
NICENESS = 10


def main() -> None:
    """Run jobs until interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.nice(NICENESS)
    settings = get_settings()
    signals = Signals(settings.redis_url, settings.queue)
    Worker([signals.queue], connection=signals.redis).work()


if __name__ == "__main__":
    main()
