"""``make demo``: the whole loop on a real Label Studio, on this machine, with nobody at the keyboard.

``python -m underpaint_workers.demo --label-studio .venv-labelstudio/bin/label-studio [--data FOLDER] [--once]``
"""

import argparse
import logging
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import redis
from rich.console import Console
from rich.text import Text

from underpaint_workers.dataset import DatasetError
from underpaint_workers.demo.label_studio import LabelStudioServer
from underpaint_workers.demo.loop import Demo
from underpaint_workers.demo.paintings import Paintings
from underpaint_workers.demo.underpaint_server import UnderpaintServer

# So that the whole demo ends within eight minutes on two cores.
OVERRIDES = {"UNDERPAINT_TRAIN_MINUTES": "4"}
TEMPLATE = Path("build/label-studio-template-1.23.2")
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Run the demo; faults that a person can mend are one plain message, and the exit status 1."""
    arguments = _arguments()
    logging.basicConfig(level=logging.WARNING)
    for stop in STOPS:
        if signal.getsignal(stop) is not signal.SIG_IGN:  # under nohup it outlives the terminal
            signal.signal(stop, _stop)
    try:
        _run(arguments, Console())
    except (DatasetError, OSError, RuntimeError, redis.RedisError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(Text.assemble(("error: ", "red"), str(error)))
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--label-studio", type=Path, required=True, help="the label-studio command")
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="where the demo keeps its data")
    parser.add_argument("--template", type=Path, default=TEMPLATE, help="migrated database, made if absent")
    parser.add_argument(
        "--data", type=Path, help="a labelled data set, or a folder of images, instead of painted scenes"
    )
    parser.add_argument("--once", action="store_true", help="stop after the table")
    return parser.parse_args()


def _run(arguments: argparse.Namespace, console: Console) -> None:
    """Start everything, go round the loop once, print what came of it, and stay up unless told not to."""
    started = time.monotonic()
    with ExitStack() as stack:
        paintings = Paintings.of(arguments.data, arguments.folder / "scenes", console)
        folder = arguments.folder.resolve()
        label_studio = stack.enter_context(
            LabelStudioServer(
                arguments.label_studio, folder / "label-studio", template=arguments.template, report=console.print
            )
        )
        underpaint = stack.enter_context(UnderpaintServer(label_studio, folder, console, OVERRIDES))
        stack.callback(console.print, "Stopping …")
        console.print(f"Underpaint is up on {underpaint.url}", highlight=False)
        demo = Demo(underpaint, paintings, console)
        demo.run()
        console.print(f"{time.monotonic() - started:.0f} s in all.", highlight=False)
        if not arguments.once:
            demo.say_where_to_look(label_studio)
            underpaint.wait()


def _stop(_: int, __: FrameType | None) -> None:
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)  # a second Ctrl-C must not leave half of them running
    sys.exit(0)


if __name__ == "__main__":
    main()
