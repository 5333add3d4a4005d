"""Record the trained model: ``python traces/tiny-moe/record.py WORK_FOLDER [OUT.parquet]``.

Every request is a window of text the model was not trained on; the kinds take turns. What was recorded is
then compared with what `model.py` chooses for the same tokens, each request in one pass without a cache.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import corpus
import numpy as np
import torch
from model import Config, TinyMoe
from transformers import AutoModelForCausalLM, AutoTokenizer, __version__

from moesim.recording import Recording, record_requests
from moesim.trace import load_trace

REQUESTS_PER_KIND, PROMPT, NEW = 20, 128, 97
RECORDING = Recording(max_new_tokens=NEW, temperature=0.8, seed=0, weights=True)
LICENCE = "Apache-2.0; token ids of python, docs and licences: PSF-2.0 and CC0-1.0 texts"


def windows(tokenizer: AutoTokenizer) -> list[list[int]]:
    """Prompts: request r is of kind ``r % len(KINDS)``."""
    texts = corpus.texts(held_out=True)
    by_kind = []
    for kind in corpus.KINDS:
        run = [i for text in texts[kind] for i in (*tokenizer(text)["input_ids"], tokenizer.eos_token_id)]
        starts = np.linspace(0, len(run) - PROMPT, REQUESTS_PER_KIND).astype(int)
        by_kind.append([run[s : s + PROMPT] for s in starts])
    return [prompts[i] for i in range(REQUESTS_PER_KIND) for prompts in by_kind]


@torch.inference_mode()
def differing(out: Path, weights: dict[str, torch.Tensor]) -> tuple[int, int]:
    """Expert ids that `model.py` chooses otherwise, and ids in all."""
    trace, model = load_trace(out), TinyMoe(Config()).eval()
    model.load_state_dict({name: w for name, w in weights.items() if name != "lm_head.weight"})
    chosen: list[np.ndarray] = []
    for layer in model.model.layers:
        layer.mlp.experts.register_forward_pre_hook(lambda _, args: chosen.append(args[1].numpy()))
    wrong = 0
    for request in np.unique(trace.request):
        rows = trace.request == request
        chosen.clear()
        model(torch.tensor(trace.token_id[rows]).long()[None])
        ids = np.sort(np.stack(chosen, axis=1), axis=2)
        wrong += int((ids != np.sort(trace.topk_ids[rows], axis=2)).sum())
    return wrong, trace.topk_ids.size


def main() -> None:
    """Record, then compare."""
    work = Path(sys.argv[1])
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent / "trace.parquet"
    torch.set_num_threads(1)  # one token at a time is too little work to share
    model = AutoModelForCausalLM.from_pretrained(work / "hf").eval()
    tokenizer = AutoTokenizer.from_pretrained(work / "hf")

    def progress(done: int, total: int) -> None:
        if done % len(corpus.KINDS) == 0:
            sys.stderr.write(f"{done} of {total} requests\n")

    done = record_requests(
        model,
        windows(tokenizer),
        out,
        RECORDING,
        num_experts=model.config.num_experts,
        top_k=model.config.num_experts_per_tok,
        name="tiny-moe",
        source="trained and recorded by the scripts in traces/tiny-moe of moesim",
        licence=LICENCE,
        metadata={
            "kinds": json.dumps(corpus.KINDS),
            "kind_of_request": "request r is of kind r modulo the number of kinds",
            "temperature": str(RECORDING.temperature),
            "seed": str(RECORDING.seed),
            "torch": torch.__version__,
            "transformers": __version__,
        },
        progress=progress,
    )
    sys.stderr.write(f"{out}: {done.prefill_tokens} prefill, {done.decode_tokens} decode tokens\n")
    wrong, total = differing(out, model.state_dict())
    sys.stderr.write(f"model.py chooses {wrong} of {total:,} expert ids otherwise\n")


if __name__ == "__main__":
    main()
