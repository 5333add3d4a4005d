"""MoE-Lens: its equations against its schedule, and what its paper prints beside ours.

    python benchmarks/throughput/moe_lens.py

Settings are those of its evaluation: three models, six pairs of lengths, 70 and 210 GB of cache, an A40
behind 19.5 GB/s. ``stage 1`` is T_max, ``stage 2`` the closed form, ``schedule`` every iteration; tokens per
second with prompts, ``made`` outputs alone. ``busy`` is the GPU's share of the time while requests enter.
"""

from __future__ import annotations

from moesim.systems.lens_paper import MODELS, accuracy, paper_box, settings
from moesim.throughput.lens import overlap_gain, pme, saturating_tokens

CARDS = (("A40", 150e12, 19.2e3, 614), ("L40", 181e12, 23.2e3, 741), ("A100", 312e12, 40.0e3, 1277))


def main() -> None:
    found = settings()
    print(
        f"{'model':14} {'p/g':>8} {'cache':>6} {'stage 1':>8} {'stage 2':>8} {'schedule':>8} {'made':>6} "
        f"{'error':>7} {'iter.':>6} {'stopped':>7} {'busy':>5} {'weights s':>9}"
    )
    for s in found:
        r = s.run
        print(
            f"{s.model:14} {s.prompt_len:4d}/{s.output_len:<3d} {s.cache_bytes / 1e9:6.0f} {s.first:8.0f} "
            f"{s.second:8.0f} {r.tokens_per_s:8.0f} {r.generated_per_s:6.0f} {s.error:+7.1%} "
            f"{r.schedule.iterations:6d} {r.schedule.stopped:7d} {r.steady_gpu_busy:5.2f} "
            f"{r.link_s.max():9.2f}"
        )
    second, first = accuracy(found)
    print(
        f"\naccuracy against the schedule: stage 2 {second:.3f} (paper 0.94), stage 1, a bound, {first:.3f}"
    )
    print(f"largest error of stage 2 {max(abs(s.error) for s in found):.1%}")

    print("\nTable 2: tokens that saturate, and GB of cache for sequences of 256")
    for name, flops, tokens, size in CARDS:
        n = saturating_tokens(flops, 32e9, 8, 2)
        cache = n * 256 * 131072.0 / 1e9
        print(f"{name:5} paper {tokens:7.0f} ours {n:7.0f}   paper {size:5d} ours {cache:5.0f}")
    box = paper_box("mixtral-8x7b")
    tokens = box.cache_tokens(70e9)
    bound = pme(98, 32) * tokens / box.delta_s
    print("\nA worked example in notes on the paper: PME 0.056, 280 thousand tokens, 4.8 s -> 3267 tok/s")
    print(
        f"by (3) and (4): PME {pme(98, 32):.5f}, {tokens / 1e3:.0f} thousand tokens, {box.delta_s:.2f} s -> "
        f"{bound:.0f} tok/s before T_GPU = {box.gpu_tokens_per_s:.0f}"
    )
    one = found[0].run
    print(
        f"GPU busy at 70 GB and 32 tokens: paper 0.90; ours {one.steady_gpu_busy:.2f} while requests enter, "
        f"{one.gpu_busy:.2f} over all, {min(bound / box.gpu_tokens_per_s, 1):.2f} by (4)"
    )
    slow = next(s for s in found if (s.output_len, s.cache_bytes) == (256, 210e9)).run.link_s.max()
    print(f"weights at 210 GB and 256 tokens: paper 5 -> 6 s, ours {box.delta_s:.2f} -> {slow:.2f} s")
    print(f"effective cache at 98/256 (7): paper's notes 1.57, ours {overlap_gain(98, 256):.2f}")
    sizes = ", ".join(f"{paper_box(m).weight_bytes / 1e9:.0f}" for m in MODELS)
    print(f"model sizes, GB: paper 94, 282, 264; ours {sizes}")


if __name__ == "__main__":
    main()
