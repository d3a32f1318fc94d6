"""OpenVINO's models, compiled by a process of its own that yields to whoever serves meanwhile.

Compiling keeps a core busy for a third of a second for each size of images, and reading what was exported for a tenth
of that. A niced thread of the server's would not do: the threads it starts are niced too, and stay. Run as a script,
this file is that process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from underpaint.orphans import end_with_parent

NICENESS = 7  # a sixth of a core; with much more, a backend that is never idle would hardly come to swap


def openvino() -> Any:
    """The library, imported when first needed."""
    # It tells a server of its makers about every import and conversion, unless it finds nothing to tell it with.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def compiled_aside(model: Any, shapes: Sequence[Sequence[int]], options: Mapping[str, Any]) -> list[bytes]:
    """`model` compiled for each of the `shapes` of its input, in order, as OpenVINO exports it.

    Raises:
        OSError, subprocess.SubprocessError: the process could not be started, or failed; its standard error says why.
    """
    with TemporaryDirectory(prefix="underpaint-compiling-") as name:
        folder = Path(name)
        openvino().save_model(model, folder / "model.xml", compress_to_fp16=False)
        # Not as a module: its package imports torch, which takes longer than all the rest.
        command = [sys.executable, "-P", __file__, name, json.dumps([list(shapes), dict(options)])]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return [(folder / f"{index}").read_bytes() for index in range(len(shapes))]


def _main(folder: Path, shapes: Sequence[Sequence[int]], options: Mapping[str, Any]) -> None:
    os.nice(NICENESS)
    end_with_parent()
    core = openvino().Core()
    model = core.read_model(folder / "model.xml")
    for index, shape in enumerate(shapes):
        model.reshape(list(shape))
        compiled = core.compile_model(model, "CPU", options)
        (folder / f"{index}").write_bytes(compiled.export_model().getbuffer())


if __name__ == "__main__":
    _main(Path(sys.argv[1]), *json.loads(sys.argv[2]))
