"""How fast paintings are predicted: ``make bench``, or ``PYTHONPATH=tests python -m bench.serving --quick``.

In one run, with the base segmenter and the same images of mixed sizes: a backend as label-studio-ml's examples are
written (the peer), the net alone (the limit), and Underpaint over HTTP, in turn, several times; then where the time
goes, brush RLE, hot swaps under load and memory. Writes ``build/serving.json`` and prints it beside the goals.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from bench import beside_training, codec, gpu, limit, paintings, stages, swaps, throughput
from bench.report import Result, report
from bench.servers import PROJECT, image_host, our_server, peer_server
from underpaint import base
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store
from underpaint.labelstudio.decoding import decode_small
from underpaint.redis_server import RedisServer
from underpaint.segmenter.channels import Image
from underpaint.segmenter.segmenter import Segmenter
from underpaint.signals import Signals

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"rounds": 1, "count": 12, "swaps": 3, "predictions": 100, "pause": 1.5, "beside": 6.0}
_STRIP = 4  # the memory test's own images are this part of an image's height: quick, but with regions to encode


class Bench:
    """What all parts share: images on a server, a store whose champion is the base, and Redis."""

    def __init__(self, stack: ExitStack, checkpoint: Checkpoint, files: Sequence[bytes]) -> None:
        self.checkpoint = checkpoint
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="underpaint-bench-")))
        images = self.folder / "images"
        images.mkdir()
        for number, file in enumerate(files):
            (images / f"{number}.jpg").write_bytes(file)
            (images / f"strip-{number}.jpg").write_bytes(paintings.strip(file, _STRIP))
        self.files = files
        self.host = stack.enter_context(image_host(images, self.folder / "images.log"))
        redis = stack.enter_context(RedisServer(self.folder / "redis"))
        self.store = Store(str(self.folder / "store"))
        self.store.promote(PROJECT, self.store.put(checkpoint), "bench", "bench", {})
        self.signals = Signals(redis.url, "bench")
        self.settings = {
            "REDIS_URL": redis.url,
            "UNDERPAINT_STORE": self.store.url,
            "UNDERPAINT_ALLOWED_HOSTS": self.host,
            "UNDERPAINT_PREDICT_DEADLINE": "600",  # a slow machine should be measured too
        }

    def urls(self, call: object, name: str = "") -> list[str]:
        """Where the images are; another `call`, other addresses, so that nobody finds what it fetched before."""
        return [f"http://{self.host}/{name}{number}.jpg?{call}" for number in range(len(self.files))]


def measure_throughput(bench: Bench, segmenter: Segmenter, rounds: int) -> Result:
    """Peer, limit and ours, in turn."""
    pictures = [decode_small(file, 10**9, "", segmenter.card.image_size) for file in bench.files]
    images = [segmenter.prepare(each.pixels, each.shape) for each in pictures]
    ways = limit.ways(segmenter, images)
    found: dict[str, list[float]] = defaultdict(list)
    with (
        our_server(bench.folder / "ours.log", {**bench.settings, "UNDERPAINT_CACHE_BYTES": "0"}) as (ours, _),
        peer_server(bench.folder / "peer") as peer,
    ):
        parts: dict[str, Callable[[list[str]], float]] = {
            "peer_ips": lambda urls: throughput.bulk(peer, urls),
            **{f"limit: {name}": partial(_limit, way, images) for name, way in ways.items()},
            "forward_ms": lambda _: limit.latency(segmenter, images),
            "ours_bulk_ips": lambda urls: throughput.bulk(ours, urls),
            "ours_single_ips": lambda urls: throughput.single(ours, urls),
            "single_latency_ms": lambda urls: throughput.latency(ours, urls),
        }
        throughput.bulk(peer, bench.urls("warm")[:2])
        throughput.bulk(ours, bench.urls("warm"))
        for way in ways.values():
            limit.images_a_second(way, images)
        for number in range(rounds):
            for name, part in parts.items():
                found[name].append(part(bench.urls(f"{name[:4]}{number}")))
                say(f"round {number + 1}: {name} {found[name][-1]:.2f}")
    medians = {name: statistics.median(values) for name, values in found.items()}
    best = max((name for name in medians if name.startswith("limit: ")), key=lambda name: medians[name])
    kept = {name: value for name, value in medians.items() if not name.startswith("limit: ")}
    return {
        **kept,
        "limit_ips": medians[best],
        "limit_way": best.removeprefix("limit: "),
        "rounds": {name: [round(value, 3) for value in values] for name, values in found.items()},
    }


def _limit(way: Callable[[], object], images: Sequence[Image], _: object) -> float:
    return limit.images_a_second(way, images)


def measure_cache(bench: Bench) -> Result:
    """What a call costs that was made before."""
    cache = {"UNDERPAINT_CACHE": str(bench.folder / "cache")}
    with our_server(bench.folder / "cached.log", {**bench.settings, **cache}) as (port, _):
        throughput.bulk(port, bench.urls("first"))
        return {"cached_ips": statistics.median(throughput.bulk(port, bench.urls(number)) for number in range(3))}


def measure_swaps(bench: Bench, count: int, predictions: int, pause: float) -> Result:
    """Hot swaps under load, and memory."""
    versions = [bench.store.put(each) for each in swaps.variants(bench.checkpoint)]
    with our_server(bench.folder / "swaps.log", {**bench.settings, "UNDERPAINT_CACHE_BYTES": "0"}) as (port, program):
        return swaps.measure(
            port, program.process.pid, bench.store, bench.signals, versions, bench.urls("load"),
            bench.urls("strip", "strip-"), swaps=count, predictions=predictions, first=min(500, predictions // 2),
            pause=pause,
        )  # fmt: skip


def measure_beside_training(bench: Bench, seconds: float) -> Result:
    """Single tasks while a worker trains."""
    folder = bench.folder / "training"
    folder.mkdir()
    with our_server(bench.folder / "beside.log", {**bench.settings, "UNDERPAINT_CACHE_BYTES": "0"}) as (port, _):
        throughput.bulk(port, bench.urls("warm"))
        url = bench.settings["REDIS_URL"]
        return beside_training.measure(port, bench.urls("beside"), url, bench.settings, folder, seconds)


def measure_codec(rounds: int) -> Result:
    """Brush RLE against label-studio-sdk's."""
    rows = [codec.compare(*mask, rounds=rounds) for mask in codec.MASKS]
    worst = {f"rle_{name}": min(float(row[name]) for row in rows) for name in ("encode_ratio", "decode_ratio")}
    return {**worst, "rle": rows}


def device(name: str) -> str:
    """What it all ran on, in words."""
    if name.startswith("cuda"):
        return torch.cuda.get_device_name()
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{models[0].partition(': ')[2] if models else platform.processor()}, {os.cpu_count()} cores"


def say(text: str) -> None:
    """What happens now, for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure, and write and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "serving.json")
    parser.add_argument("--images", type=Path, help="folder of images to take as they are, instead of the bench's own")
    parser.add_argument("--data", type=Path, default=paintings.DATA, help="where the bench's own images are made from")
    parser.add_argument("--quick", action="store_true", help="a minute instead of ten, and rough numbers")
    parser.add_argument("--rounds", type=int, default=4, help="of peer, limit and ours in turn")
    parser.add_argument("--count", type=int, default=64, help="images")
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--pause", type=float, default=3.0, help="seconds between swaps, at least")
    parser.add_argument("--predictions", type=int, default=10_000, help="after which memory is read again")
    parser.add_argument("--beside", type=float, default=30.0, help="seconds of single tasks beside a training")
    if parser.parse_known_args(arguments)[0].quick:
        parser.set_defaults(**QUICK)
    args = parser.parse_args(arguments)

    checkpoint = base.load()
    if checkpoint is None:
        parser.error("the base segmenter is missing from the package: `make base` makes it")
    files = paintings.read(args.images, args.count) if args.images else paintings.make(args.count, args.data)
    with ExitStack() as stack:
        bench = Bench(stack, checkpoint, files)
        segmenter = Segmenter(checkpoint, "auto", runtime="auto", cache=bench.folder)
        result: Result = {
            "device": device(segmenter.device),
            "runtime": str(getattr(segmenter, "runtime", "torch-float32")),
            "images": len(files),
            "megapixels": statistics.mean(paintings.megapixels(file) for file in files),
            "predictions": args.predictions,
        }
        result |= measure_throughput(bench, segmenter, args.rounds)
        result["stages_ms"] = stages.profile(segmenter, bench.urls("profile"), bench.host)
        say("the cache")
        result |= measure_cache(bench)
        say("brush RLE")
        result |= measure_codec(1 if args.quick else 3)
        say(f"{args.swaps} swaps under load, {args.predictions} predictions")
        result |= measure_swaps(bench, args.swaps, args.predictions, args.pause)
        say("single tasks beside a training")
        result |= measure_beside_training(bench, args.beside)
        result["gpu"] = gpu.table(checkpoint, segmenter.runtime)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(report(result))


if __name__ == "__main__":
    main()
