"""Where the time goes: what each stage of a prediction costs, one image after the other in this process."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from pydantic_core import to_json

from bench.servers import CONFIG
from underpaint.labelstudio import regions
from underpaint.labelstudio.decoding import decode_small
from underpaint.labelstudio.images import ImageFetcher
from underpaint.labelstudio.label_config import parse
from underpaint.labelstudio.label_space import LabelSpace
from underpaint.segmenter.segmenter import Segmenter
from underpaint.segmenter.upsampling import to_natural_size
from underpaint.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")


def profile(segmenter: Segmenter, urls: Sequence[str], host: str) -> dict[str, float]:
    """Mean milliseconds of CPU time, of all threads together, that an image costs in each stage."""
    spent: dict[str, float] = defaultdict(float)

    def stage(name: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        started = time.process_time()
        result = function(*args, **kwargs)
        spent[name] += 1000 * (time.process_time() - started) / len(urls)
        return result

    settings = Settings(allowed_hosts=[host])
    fetcher = ImageFetcher(settings, None)
    space = LabelSpace.match(parse(CONFIG), segmenter.classes)
    for number, url in enumerate([urls[0], *urls]):
        if number == 1:  # the first is looked at twice, for what is compiled or loaded on first use
            spent.clear()
        data = stage("fetch", fetcher.fetch_bytes, url)
        picture = stage("decode", decode_small, data, settings.max_image_pixels, "", segmenter.card.image_size)
        image = stage("prepare", segmenter.prepare, picture.pixels, picture.shape)
        [found] = stage("forward pass", segmenter.probabilities, [image])
        class_map, confidence = stage("upsample", to_natural_size, found, *picture.shape)
        result, score = stage("encode", regions.encode, class_map, confidence, space)
        stage("JSON", to_json, {"result": result, "score": score, "model_version": segmenter.version})
    return dict(spent)
