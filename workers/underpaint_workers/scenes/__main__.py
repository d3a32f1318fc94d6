"""Paint a data set: ``python -m underpaint_workers.scenes OUT --count 12 --seed 0 --size 384x512 [--manner M]``."""

import argparse
from pathlib import Path

from . import MANNERS, write_dataset


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def main() -> None:
    """Read the command line and paint."""
    parser = argparse.ArgumentParser(prog="underpaint_workers.scenes", description="Paint landscapes with label maps.")
    parser.add_argument("out", type=Path, help="folder to write images/, labels/ and classes.json to")
    parser.add_argument("--count", type=int, default=12, help="how many scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=_size, default=(384, 512), help="HEIGHTxWIDTH in pixels")
    parser.add_argument("--manner", choices=MANNERS, help="one manner for all; otherwise each scene has its own")
    args = parser.parse_args()
    write_dataset(args.out, args.count, args.seed, args.size, [args.manner] if args.manner else None)


if __name__ == "__main__":
    main()
