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

from rich.console import Console

from underpaint_workers.demo.label_studio import LabelStudioServer
from underpaint_workers.demo.loop import Demo
from underpaint_workers.demo.paintings import Paintings
from underpaint_workers.demo.underpaint_server import UnderpaintServer

# So that the whole demo ends within eight minutes on two cores.
OVERRIDES = {"UNDERPAINT_TRAIN_MINUTES": "4"}
TEMPLATE = Path("build/label-studio-template-1.23.2")


def main() -> None:
    """Start everything, go round the loop once, print what came of it, and stay up unless told not to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--label-studio", type=Path, required=True, help="the label-studio command")
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="where the demo keeps its data")
    parser.add_argument("--template", type=Path, default=TEMPLATE, help="migrated database, made if absent")
    parser.add_argument(
        "--data", type=Path, help="a labelled data set, or a folder of images, instead of painted scenes"
    )
    parser.add_argument("--once", action="store_true", help="stop after the table")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console()
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
        console.print(f"Underpaint is up on {underpaint.url}", highlight=False)
        demo = Demo(underpaint, paintings, console)
        demo.run()
        console.print(f"{time.monotonic() - started:.0f} s in all.", highlight=False)
        if not arguments.once:
            demo.say_where_to_look(label_studio)
            underpaint.wait()


def _interrupt(_: int, __: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
