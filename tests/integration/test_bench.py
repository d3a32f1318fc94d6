"""The serving bench runs from end to end, peer and all; its figures mean nothing at this size."""

import json
from pathlib import Path

import pytest

from bench import codec, paintings, serving


def test_the_serving_bench_measures_everything_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(codec, "MASKS", ((80, 60, 10),))
    monkeypatch.setattr(paintings, "LONGER_SIDES", (100, 200))
    out = tmp_path / "serving.json"
    size = ["--count", "2", "--rounds", "1", "--swaps", "2", "--pause", "0.5", "--predictions", "140", "--beside", "1"]
    serving.main(["--out", str(out), "--data", str(tmp_path), *size])
    result = json.loads(out.read_text())
    rates = {
        "limit_ips",
        "ours_bulk_ips",
        "ours_single_ips",
        "peer_ips",
        "cached_ips",
        "single_latency_ms",
        "forward_ms",
    }
    assert all(
        result[name] > 0
        for name in {*rates, "rle_encode_ratio", "rle_decode_ratio", "swap_p99_ratio", "training_p95_ratio"}
    )
    assert result["swap_failed"] == 0
    assert result["swap_count"] == 2
    assert {"rss_growth", "device"} <= result.keys()
    assert min(result["stages_ms"].values()) > 0
    assert f"failed requests in 2 swaps | 0 of {result['swap_requests']}" in capsys.readouterr().out


def test_its_images_are_the_same_in_every_run_and_of_mixed_sizes() -> None:
    first, again = (paintings.make(3, Path("nowhere")) for _ in range(2))
    assert first == again
    assert len({round(paintings.megapixels(file), 2) for file in first}) == 3


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--images"):
        paintings.read(tmp_path, 4)
