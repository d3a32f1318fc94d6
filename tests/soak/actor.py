"""One who does one thing after the other, at random, until told to stop."""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import redis

from soak.exchanges import REDIS
from soak.house import House
from soak.journal import Journal
from underpaint.labelstudio.client import LabelStudioError

Act = Callable[[], object]


class Actor:
    """A thread that draws from ``acts``, which are weighted, and rests for ``rest`` seconds (least, most) in between.

    The seed decides what is drawn; when it happens, the machine decides.
    """

    name = ""
    rest = (0.5, 2.0)

    def __init__(self, house: House, journal: Journal, seed: str) -> None:
        self.house, self.journal = house, journal
        self.random = random.Random(f"{seed} {self.name}")
        self.stopping = threading.Event()
        self.broken: list[str] = []
        """What went wrong that nobody wanted."""
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def acts(self) -> Mapping[Act, float]:
        """What it does, and how often relative to the others."""
        raise NotImplementedError

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when it has finished what it was doing."""
        self.stopping.set()
        self._thread.join()

    def act(self, act: Act) -> None:
        name, began = act.__name__.strip("_"), time.monotonic()
        try:
            self.journal.did(self.name, name, act() or "")
        except LabelStudioError as error:  # the gate knows whether a backend is to blame
            self.journal.did(self.name, "Label Studio's own error", f"in {name}: {error}")
        except redis.RedisError as error:
            self.journal.say(self.name, f"{name}: {error!r}")
            if not self.house.outages.during(REDIS, began, time.monotonic()):
                self.broken.append(f"{self.name}, {name}: {error!r}")
        except Exception as error:
            self.journal.say(self.name, f"{name} FAILED: {error!r}")
            self.broken.append(f"{self.name}, {name}: {error!r}")

    def sample(self, items: Sequence[int], most: int) -> list[int]:
        """Between one and ``most`` of ``items``, as far as there are any."""
        return self.random.sample(items, min(len(items), self.random.randint(1, most)))

    def _run(self) -> None:
        while not self.stopping.wait(self.random.uniform(*self.rest)):
            acts, weights = zip(*self.acts().items(), strict=True)
            [act] = self.random.choices(acts, weights)
            self.act(act)
