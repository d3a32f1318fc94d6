"""``python -m underpaint_workers.torchrun FOLDER N``: torchrun, with N processes of one training.

It ends, and they with it, when the process that started it ends.
"""

import sys

from underpaint.orphans import be_parent, end_with_parent

KILLED = 3
"""Exit status where one of the processes was killed by the system, rather than failed."""
_STOPPED = -15  # what torchrun does to the others when one has failed


def main() -> None:
    """Run them to their end."""
    if not end_with_parent():
        sys.exit(KILLED)
    be_parent()
    folder, count = sys.argv[1:]
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # The local address, for not every machine can resolve the name it has.
    options = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={count}", f"--log-dir={folder}"]
    try:
        run(parse_args([*options, "--module", "underpaint_workers.rank", folder]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        sys.exit(KILLED if any(code < 0 for code in codes - {_STOPPED}) else 1)


if __name__ == "__main__":
    main()
