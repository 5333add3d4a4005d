"""Train the model: ``python traces/tiny-moe/train.py WORK_FOLDER``; two cores, about half an hour.

Leaves the tokenizer and the model as a Hugging Face checkpoint in ``WORK_FOLDER/hf``, and the losses in
``WORK_FOLDER/loss.csv``. Stopped, it goes on from its last checkpoint. The learning rate is constant and
falls to nothing over the last steps, so that ``--steps`` may still change before the fall begins.
"""

from __future__ import annotations

import os

if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
    # Without this glibc hands every activation back to the kernel, and half the time goes into page faults.
    large = {"MALLOC_MMAP_THRESHOLD_": str(4 * 10**9), "MALLOC_TRIM_THRESHOLD_": str(16 * 10**9)}
    os.environ |= {**large, "OMP_WAIT_POLICY": "passive"}
    import sys

    os.execv(sys.executable, [sys.executable, *sys.argv])

import argparse
import csv
import sys
import time
from dataclasses import asdict
from pathlib import Path

import corpus
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - what all of torch calls it
from model import Config, TinyMoe
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SEED = 20_26
BATCH, STEPS, DECAY, WARM_UP = 8, 1100, 300, 60
LEARNING_RATE, BALANCE = 2e-3, 0.01
LOG_EVERY, VALID_EVERY, SAVE_EVERY = 50, 200, 100
END = "<|end|>"


def train_tokenizer(texts: dict[str, list[str]], path: Path) -> Tokenizer:
    """Byte-level BPE over the first half million characters of every kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=Config.vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(("\n".join(t)[:500_000] for t in texts.values()), trainer)
    tokenizer.save(str(path))
    return tokenizer


def encode(texts: dict[str, list[str]], tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
    """Each kind as one run of tokens, documents apart by the end token."""
    end = tokenizer.token_to_id(END)
    runs = {}
    for kind, documents in texts.items():
        runs[kind] = torch.tensor(
            [i for e in tokenizer.encode_batch(documents) for i in (*e.ids, end)], dtype=torch.int32
        )
    return runs


def windows(run: torch.Tensor, starts: np.ndarray, length: int) -> torch.Tensor:
    """Tokens ``[len(starts), length + 1]``."""
    return torch.stack([run[s : s + length + 1] for s in starts.tolist()]).long()


def losses(model: TinyMoe, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of each window in nats per token, and the imbalance."""
    logits, imbalance = model(batch[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
    return loss.view(len(batch), -1).mean(1), imbalance


@torch.no_grad()
def validate(model: TinyMoe, runs: dict[str, torch.Tensor], n: int = 12) -> list[float]:
    """Held-out loss of each kind, over windows spread evenly."""
    result = []
    for run in runs.values():
        starts = np.linspace(0, len(run) - model.c.context - 1, n).astype(int)
        result.append(losses(model, windows(run, starts, model.c.context))[0].mean().item())
    return result


def rate(step: int, steps: int) -> float:
    """Learning rate: warm up, hold, fall."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP, (steps - step) / DECAY)


def main() -> None:
    """Train, then export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)

    seen, unseen = corpus.texts(held_out=False), corpus.texts(held_out=True)
    path = args.work / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path)) if path.exists() else train_tokenizer(seen, path)
    runs, held_out = encode(seen, tokenizer), encode(unseen, tokenizer)
    say(f"corpus {corpus.digest(seen)[:16]} {corpus.digest(unseen)[:16]}")
    for kind in runs:
        say(f"{kind}: {len(runs[kind]):,} tokens to train on, {len(held_out[kind]):,} held out")

    model = TinyMoe(Config(), SEED)
    optimizer = optimizer_of(model)
    start, rows, spent_s = 0, [], 0.0
    checkpoint = args.work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, rows, spent_s = state["step"], state["rows"], state["spent_s"]
    header = ["step", "tokens", "seconds", "rate", "imbalance"]
    header += [f"{part}_{kind}" for part in ("train", "valid") for kind in corpus.KINDS]

    sums, counts, clock = np.zeros(len(runs)), np.zeros(len(runs)), time.monotonic()
    for step in range(start, args.steps):
        # A generator per step, so that a resumed run draws what an unbroken one does.
        draw = np.random.default_rng((SEED, step))
        kinds = draw.choice(len(runs), BATCH, p=corpus.SHARES)
        batch = []
        for i in kinds:
            run = runs[corpus.KINDS[i]]
            batch.append(windows(run, draw.integers(0, len(run) - model.c.context - 1, 1), model.c.context))
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args.steps)
        loss, imbalance = losses(model, torch.cat(batch))
        (loss.mean() + BALANCE * imbalance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        np.add.at(sums, kinds, loss.detach().numpy())
        np.add.at(counts, kinds, 1)

        done = step + 1
        if done % LOG_EVERY and done != args.steps:
            continue
        seconds = spent_s + time.monotonic() - clock
        shown = [f"{s / n:.4f}" if n else "" for s, n in zip(sums, counts, strict=True)]
        last = done % VALID_EVERY == 0 or done == args.steps
        valid = [f"{v:.4f}" for v in validate(model, held_out)] if last else [""] * len(runs)
        tokens = done * BATCH * model.c.context
        state_of_run = [
            done,
            tokens,
            f"{seconds:.0f}",
            f"{rate(step, args.steps):.2e}",
            f"{imbalance.item():.3f}",
        ]
        rows.append([*state_of_run, *shown, *valid])
        sums[:], counts[:] = 0, 0
        with (args.work / "loss.csv").open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([header, *rows])
        say(" ".join(map(str, rows[-1])))
        if done % SAVE_EVERY == 0 or done == args.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
            partial = checkpoint.with_suffix(".part")
            torch.save({**state, "rows": rows, "spent_s": seconds}, partial)
            partial.replace(checkpoint)
    export(model, tokenizer, args.work / "hf")


def optimizer_of(model: TinyMoe) -> torch.optim.AdamW:
    """AdamW; norms do not decay."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)


@torch.no_grad()
def export(model: TinyMoe, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a checkpoint that transformers (5 or later) loads, after comparing the logits of the two."""
    from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

    c = asdict(model.c)
    context, theta = c.pop("context"), c.pop("rope_theta")
    config = Qwen3MoeConfig(
        **c,
        intermediate_size=c["moe_intermediate_size"],
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        norm_topk_prob=True,
        tie_word_embeddings=True,
    )
    twin = Qwen3MoeForCausalLM(config).eval()
    missing, unknown = twin.load_state_dict(model.state_dict(), strict=False)
    batch = torch.randint(0, model.c.vocab_size, (2, context), generator=torch.Generator().manual_seed(SEED))
    gap = (model(batch)[0] - twin(batch).logits).abs().max().item()
    if unknown or set(missing) - {"lm_head.weight"} or gap > 1e-3:
        raise SystemExit(f"the export is another model: {missing} {unknown}, logits differ by {gap:.2g}")
    say(f"export: logits differ by at most {gap:.2g}")
    twin.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(folder)


def say(text: str) -> None:
    """Progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
