"""The cases that ``moesim validate reference`` runs: ``python benchmarks/freeze_reference_cases.py FOLDER``.

They were fixed before any machine was calibrated, and a test holds their checksums. Hidden sizes for the CPU
are those of the models divided by the number behind the slash, so that no layer needs more than 5 GFLOP.
"""

import json
import sys
from pathlib import Path

FULL = {
    # name: experts, top-k, hidden, width, weights of the chosen experts sum to one
    "mixtral-8x7b": (8, 2, 4096, 14336, True),
    "qwen3-30b-a3b": (128, 8, 2048, 768, True),
    "deepseek-v2-lite": (64, 6, 2048, 1408, False),
    "olmoe-1b-7b": (64, 8, 2048, 1024, False),
    "gpt-oss-20b": (32, 4, 2880, 2880, True),
    "gemma-4-26b-a4b": (128, 8, 2816, 704, True),
}
SCALED = {
    "mixtral-8x7b/8": (8, 2, 512, 1792, True),
    "qwen3-30b-a3b/5.33": (128, 8, 384, 144, True),
    "deepseek-v2-lite/4": (64, 6, 512, 352, False),
    "olmoe-1b-7b/5.33": (64, 8, 384, 192, False),
    "gpt-oss-20b/6": (32, 4, 480, 480, True),
    "gemma-4-26b-a4b/6.29": (128, 8, 448, 112, True),
}
#: Recordings, or profiles made from some, exist of these.
TRACES = ("mixtral-8x7b", "deepseek-v2-lite", "olmoe-1b-7b", "gpt-oss-20b")


def cuda() -> list[tuple[str, int, str, float, str]]:
    """Every size twice in fast memory, evenly and unevenly routed; offloaded at two sizes."""
    cases = []
    for n, name in enumerate(FULL):
        uneven = ["zipf:0.8", "zipf:1.5"]
        if name in TRACES:
            uneven = [f"trace:{name}", "zipf:0.8", f"trace:{name}", "zipf:1.5"]
        for i, tokens in enumerate((1, 4, 16, 64, 256, 1024, 4096, 16384)):
            for routing in ("uniform", uneven[(i + n) % len(uneven)]):
                cases.append((name, tokens, routing, 0.0, "bf16"))
        for i, tokens in enumerate((4, 512)):
            for j, offloaded in enumerate((0.25, 0.5, 0.75)):
                routing = [*uneven, "uniform"][(i + j + n) % (len(uneven) + 1)]
                cases.append((name, tokens, routing, offloaded, "bf16"))
    return cases


def cpu() -> list[tuple[str, int, str, float, str]]:
    """Eight cases of each shape: five in fast memory, three offloaded; one of either is bf16."""
    sizes = {
        "mixtral-8x7b/8": (1, 16, 96, 320, 192, 8, 64, 256),
        "qwen3-30b-a3b/5.33": (4, 48, 320, 1536, 640, 16, 128, 512),
        "deepseek-v2-lite/4": (2, 24, 160, 640, 384, 12, 80, 320),
        "olmoe-1b-7b/5.33": (1, 32, 224, 1280, 448, 16, 96, 640),
        "gpt-oss-20b/6": (6, 40, 192, 768, 256, 8, 96, 384),
        "gemma-4-26b-a4b/6.29": (2, 64, 256, 1024, 512, 24, 144, 400),
    }
    cases = []
    for n, (name, tokens) in enumerate(sizes.items()):
        model = name.split("/")[0]
        recorded = f"trace:{model}" if model in TRACES else "zipf:1.2"
        order = ["uniform", "zipf:0.8", recorded, "zipf:1.5"]
        turned = order[n % 4 :] + order[: n % 4]
        routings = [*turned, recorded, *turned[:3]]
        offloaded = (0.0, 0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 0.75)
        dtypes = ("fp32", "fp32", "fp32", "fp32", "bf16", "fp32", "bf16", "fp32")
        cases += [(name, *rest) for rest in zip(tokens, routings, offloaded, dtypes, strict=True)]
    return cases


def write(path: Path, device: str, shapes: dict, cases: list) -> None:
    keys = ("num_experts", "top_k", "hidden", "width", "renormalise")
    lines = [
        json.dumps({"name": name} | dict(zip(keys, sizes, strict=True))) for name, sizes in shapes.items()
    ]
    rows = [
        json.dumps(
            dict(zip(("shape", "tokens", "routing", "offloaded", "dtype", "seed"), (*c, 0), strict=True))
        )
        for c in cases
    ]
    text = ",\n  ".join(lines), ",\n  ".join(rows)
    path.write_text(
        f'{{"schema_version": 1, "device": "{device}",\n "shapes": [\n  {text[0]}],\n'
        f' "cases": [\n  {text[1]}]}}\n'
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write(folder / "cases_cpu.json", "cpu", SCALED, cpu())
    write(folder / "cases_cuda.json", "cuda", FULL, cuda())
