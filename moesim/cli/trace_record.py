"""`moesim trace record`: run prompts through a Hugging Face model and keep what its routers choose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.common import Json, Seed, print_json, print_table, stderr


def record(
    model_dir: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A Hugging Face checkpoint folder.")],
    prompts: Annotated[Path, typer.Option(help="One prompt per line, or .jsonl with `prompt`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The Parquet file to write.")],
    max_new_tokens: Annotated[int, typer.Option(min=0, help="Tokens to generate per prompt.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy; above, tokens are drawn.")] = 0.0,
    weights: Annotated[bool, typer.Option("--weights", help="Record router weights too.")] = False,
    token_ids: Annotated[bool, typer.Option(help="Record token ids; they give the text away.")] = True,
    scores: Annotated[
        bool,
        typer.Option("--scores", help="Write all router logits to a folder, OUTPUT with suffix .scores."),
    ] = False,
    next_scores: Annotated[
        bool,
        typer.Option(
            "--next-scores",
            help="Write what the layer before predicts of each router's logits: .next-scores.",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto: over all devices.")] = "cpu",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Record routing from a Hugging Face model: prompts in, a trace out."""
    from moesim.recording import Recording, check_installed, record_folder
    from moesim.trace import summarise

    check_installed()
    recording = Recording(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        weights=weights,
        token_ids=token_ids,
        scores=output.with_suffix(".scores") if scores else None,
        next_scores=output.with_suffix(".next-scores") if next_scores else None,
    )

    def progress(done: int, total: int) -> None:
        if done == total or done % max(1, total // 10) == 0:
            stderr(f"{done} of {total} requests")

    done = record_folder(model_dir, prompts, output, recording, device=device, progress=progress)
    summary = summarise(output)
    extra = [str(p) for p in (recording.scores, recording.next_scores) if p is not None]
    for warning in done.warnings:
        stderr(f"warning: {warning}")
    skew = summary.max_over_mean
    if json:
        document = {
            "written": [str(output), *extra],
            "model": summary.header.model,
            "moe_layer_ids": done.moe_layer_ids,
            "num_experts": summary.header.num_experts,
            "top_k": summary.header.top_k,
            "requests": done.requests,
            "phases": {"prefill": done.prefill_tokens, "decode": done.decode_tokens},
            "max_over_mean": {"mean": skew.mean(), "worst": skew.max()},
            "warnings": done.warnings,
        }
        print_json(
            document, kind="trace-recording", inputs=[model_dir / "config.json", prompts, output], seed=seed
        )
        return
    rows: list[tuple[str, object]] = [
        ("model", summary.header.model),
        ("MoE layers", len(done.moe_layer_ids)),
        ("experts, top-k", f"{summary.header.num_experts}, {summary.header.top_k}"),
        ("requests", done.requests),
        ("tokens", f"{done.prefill_tokens:,} prefill, {done.decode_tokens:,} decode"),
        ("load, max over mean", f"{skew.mean():.2f} on average, {skew.max():.2f} at worst"),
    ]
    print_table(("recorded", output.name), rows)
    for path in extra:
        stderr(f"also written: {path}")
