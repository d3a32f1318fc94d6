"""``python -m underpaint_workers``: an RQ worker in the foreground, also as ``underpaint work``."""

from underpaint.settings import get_settings
from underpaint.signals import Signals
from underpaint_workers.precedence import step_back
from underpaint_workers.worker import log_to_stderr, work


def main() -> None:
    """Run jobs until interrupted."""
    log_to_stderr()
    settings = get_settings()
    step_back(settings.job_nice)
    signals = Signals(settings.redis_url, settings.queue)
    work(signals.queue)


if __name__ == "__main__":
    main()
