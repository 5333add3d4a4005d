"""Statistics of recorded traces against published measurements of the same recordings, to their rounding.

Comparable are the ESFT sets ``intent`` and ``summary``, which are here whole, and the DeepSeek-V3/R1 load
counts. The gpt-oss recording here is a part of the one that was measured: what varies little is compared, and
loosely.
"""

from __future__ import annotations

import pytest

from moesim.analysis import statistics
from moesim.trace import load_trace

# statistic: (intent, summary); means over layers, three digits after the point unless said otherwise
ESFT = {
    "max_over_mean": (3.81, 4.28),
    "entropy_normalised": (0.933, 0.946),
    "gini": (0.409, 0.353),
    "top20_share": (0.463, 0.426),
    "consecutive_overlap": (0.262, 0.291),
    "random_pair_overlap": (0.153, 0.146),
    "next_layer_entropy": (0.787, 0.841),
    "next_layer_information_bits": (0.87, 0.62),
    "recall_k": (0.707, 0.561),
    "popularity_recall_k": (0.268, 0.251),
    "next_layer_cover": (0.712, 0.629),
    "next_token_cover": (0.614, 0.517),
    "top10_pair_share": (0.614, 0.525),
}
TWO_DIGITS = ("max_over_mean", "next_layer_information_bits")
#: Measured there on drawn pairs of tokens; here the exact expectation.
SAMPLED = ("random_pair_overlap",)


@pytest.mark.parametrize(("column", "name"), [(0, "intent"), (1, "summary")])
def test_esft_to_the_published_digits(shared, column, name):
    found = statistics(
        load_trace(shared(f"traces/esft-deepseek-v2-lite/{name}.npz")),
        families=("load", "locality", "coupling", "pairs", "sample", "segments"),
    ).overall
    for statistic, published in ESFT.items():
        half = 0.005 if statistic in TWO_DIGITS else 0.0025 if statistic in SAMPLED else 0.0005
        assert found[statistic] == pytest.approx(published[column], abs=half * 1.01), statistic
    # Rounded to two digits there, and measured on some of the layers.
    published = {"8": (0.43, 0.44), "32": (0.81, 0.79), "128": (0.96, 0.96)}
    for size, digits in published.items():
        assert found["distinct_fraction"][size] == pytest.approx(digits[column], abs=0.016)
    # Measured there on windows that do not overlap.
    cover = (found["segment_cover_k"]["16"], found["segment_cover_2k"]["16"])
    assert cover == pytest.approx((0.372, (0.588, 0.579)[column]), abs=0.003)


# max/mean, entropy, top-10 % share, sigma of log load, mean rank imbalance at EP 8, 16, 32, 64
DEEPSEEK = {
    "decode_in1000out1000": (5.56, 0.959, 0.289, 0.595, 2.01, 2.44, 2.88, 3.36),
    "prefill_in1024": (6.53, 0.954, 0.296, 0.659, 1.67, 1.93, 2.29, 2.90),
    "prefill_in4096": (8.12, 0.929, 0.355, 0.821, 2.07, 2.57, 3.04, 3.77),
}
#: The same of the worst layer, rank imbalance alone.
WORST = {
    "decode_in1000out1000": (3.49, 4.76, 8.45, 9.18),
    "prefill_in1024": (2.86, 3.38, 4.06, 4.49),
    "prefill_in4096": (4.30, 5.98, 6.91, 7.85),
}


@pytest.mark.parametrize("name", list(DEEPSEEK))
def test_deepseek_load_counts(shared, name):
    path = shared(f"traces/deepseek-v3-counts/{name}.json")
    found = statistics(path, ep=(8, 16, 32, 64), num_experts=256)
    row = found.overall
    published = DEEPSEEK[name]
    assert row["max_over_mean"] == pytest.approx(published[0], abs=0.00501)
    got = (row["entropy_normalised"], row["top10_share"], row["sigma_log_load"])
    assert got == pytest.approx(published[1:4], abs=0.000501)
    assert tuple(row["rank_max_over_mean"].values()) == pytest.approx(published[4:], abs=0.00501)
    for i, ep in enumerate(("8", "16", "32", "64")):
        worst = max(layer["rank_max_over_mean"][ep] for layer in found.layers)
        assert worst == pytest.approx(WORST[name][i], abs=0.00501)
    assert [layer["layer_id"] for layer in found.layers] == list(range(3, 61))
    assert row["consecutive_overlap"] is None
    assert found.reasons["consecutive_overlap"] == "load counts have no tokens"


def test_gpt_oss_is_near_the_recording_it_is_part_of(shared):
    trace = load_trace(shared("traces/gpt-oss-20b/decode.npz"))
    found = statistics(trace, families=("load", "locality")).overall
    whole = {"entropy_normalised": 0.919, "gini": 0.397, "consecutive_overlap": 0.438}
    for statistic, published in whole.items():
        assert found[statistic] == pytest.approx(published, rel=0.02)
    assert found["random_pair_overlap"] == pytest.approx(0.191, rel=0.02)
    lags = tuple(found["lag_overlap"].values())
    assert lags == pytest.approx((0.383, 0.362, 0.340, 0.330), rel=0.02)
    mixed = tuple(found["distinct_fraction_mixed"].values())
    assert mixed == pytest.approx((0.574, 0.838, 0.948), rel=0.025)
