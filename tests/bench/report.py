"""What the serving bench measured, beside what was wanted, as Markdown."""

from typing import Any

Result = dict[str, Any]
"""What ``build/serving.json`` holds: figures by name, and lists of rows."""


def goals(result: Result) -> list[tuple[str, str, str, bool | None]]:
    """For each goal: what it is about, what was measured, what is wanted, and whether that is met."""
    bulk, single = (result[name] / result["limit_ips"] for name in ("ours_bulk_ips", "ours_single_ips"))
    times = result["ours_bulk_ips"] / result["peer_ips"]
    above = result["single_latency_ms"] - result["forward_ms"]
    return [
        (f"peer, {result['images']} tasks in one call", f"{result['peer_ips']:.2f} img/s", "", None),
        (f"the net alone, {result['limit_way']}", f"{result['limit_ips']:.1f} img/s", "", None),
        (
            "ours, one client, one call",
            f"{result['ours_bulk_ips']:.1f} img/s = {bulk:.2f} of it",
            "≥ 0.85",
            bulk >= 0.85,
        ),
        (
            "ours, 16 clients, single tasks",
            f"{result['ours_single_ips']:.1f} img/s = {single:.2f} of it",
            "≥ 0.85",
            single >= 0.85,
        ),
        ("ours against the peer", f"{times:.1f} ×", "≥ 5 ×", times >= 5),
        (
            "one task alone",
            f"{result['single_latency_ms']:.1f} ms = forward pass {result['forward_ms']:.1f} ms + {above:.1f} ms",
            "≤ + 25 ms",
            above <= 25,
        ),
        ("the same call again, from the cache", f"{result['cached_ips']:.0f} img/s", "", None),
        (
            "RLE encode against the SDK",
            f"{result['rle_encode_ratio']:.0f} ×",
            "≥ 40 ×",
            result["rle_encode_ratio"] >= 40,
        ),
        (
            "RLE decode against the SDK",
            f"{result['rle_decode_ratio']:.0f} ×",
            "≥ 15 ×",
            result["rle_decode_ratio"] >= 15,
        ),
        (
            f"failed requests in {result['swap_count']} swaps",
            f"{result['swap_failed']} of {result['swap_requests']}",
            "0",
            result["swap_failed"] == 0,
        ),
        (
            "p99 during swaps against steady",
            f"{result['swap_p99_ms']:.0f} ms / {result['steady_p99_ms']:.0f} ms = {result['swap_p99_ratio']:.2f}",
            "≤ 1.5",
            result["swap_p99_ratio"] <= 1.5,
        ),
        (
            "p95 of single tasks beside a training against idle",
            f"{result['training_p95_ms']:.0f} ms / {result['idle_p95_ms']:.0f} ms = {result['training_p95_ratio']:.2f}",
            "≤ 2",
            result["training_p95_ratio"] <= 2,
        ),
        (
            f"memory after {result['predictions']:,} predictions",
            f"{result['rss_first_mib']:.0f} → {result['rss_last_mib']:.0f} MiB = {result['rss_growth']:+.1%}",
            "≤ 5 %",
            result["rss_growth"] <= 0.05,
        ),
    ]


def report(result: Result) -> str:
    """All of it as Markdown."""
    marks = {True: "met", False: "**missed**", None: ""}
    size = f"{result['images']} images, {result['megapixels']:.2f} megapixels on average"
    lines = [f"{result['device']}, {result['runtime']}; {size}", ""]
    lines += ["| | measured | goal | |", "|---|---|---|---|"]
    lines += [f"| {what} | {measured} | {goal} | {marks[met]} |" for what, measured, goal, met in goals(result)]
    whole = sum(result["stages_ms"].values())
    lines += ["", "| stage | CPU ms an image | share |", "|---|---|---|"]
    lines += [f"| {stage} | {spent:.2f} | {spent / whole:.0%} |" for stage, spent in result["stages_ms"].items()]
    lines += ["", "| RLE mask | SDK encode ms | ours | | SDK decode ms | ours | |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row['mask']} | {row['sdk_encode_ms']:.0f} | {row['encode_ms']:.2f} | {row['encode_ratio']:.0f} × "
        f"| {row['sdk_decode_ms']:.0f} | {row['decode_ms']:.2f} | {row['decode_ratio']:.0f} × |"
        for row in result["rle"]
    ]
    if result["gpu"]:
        lines += ["", "| size | batch | img/s | busy |", "|---|---|---|---|"]
        lines += [
            f"| {row['size']}² | {row['batch']} | {row['images_per_second']:.0f} | {row['busy']:.0%} |"
            for row in result["gpu"]
        ]
    return "\n".join(lines)
