"""Record from a Hugging Face folder on this machine: model, tokenizer, prompts, trace."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault
from moesim.files import check_writable
from moesim.model import Model, load_model
from moesim.recording.generate import Recorded, Recording, record_requests
from moesim.recording.prompts import read_prompts
from moesim.recording.routers import find_routers
from moesim.recording.rules import Rule

INSTALL = "pip install 'moesim[record]'"


def check_installed() -> None:
    """Check that torch and transformers are there.

    Raises
    ------
    ConfigError
        Naming what is missing and the command that installs it.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"recording needs {' and '.join(missing)}: {INSTALL}")


def record_folder(
    folder: str | os.PathLike[str],
    prompts: str | os.PathLike[str],
    output: str | os.PathLike[str],
    recording: Recording | None = None,
    *,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Recorded:
    """Record the routing of a model for the prompts of a file.

    Parameters
    ----------
    folder
        A Hugging Face checkpoint: ``config.json``, weights, tokenizer. Nothing is downloaded, and no code
        from the folder is run.
    prompts
        A file of prompts, see `read_prompts`.
    output
        The Parquet file to write.
    recording
        What to record; the prompts alone by default.
    device
        Where torch runs the model: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` to spread it over all devices.
    progress
        Called with requests done and requests in all.

    Returns
    -------
    Recorded

    Raises
    ------
    ConfigError
        Naming everything that is wrong with the folder, the prompts and the output, before anything runs.
    """
    check_installed()
    recording = recording or Recording()
    faults = [*check_writable(output, "--output")]
    for extra in (recording.scores, recording.next_scores):
        if extra is not None and not Path(extra).is_dir():
            faults += check_writable(extra, "--scores")
    shape, texts = None, []
    try:
        shape = _shape(folder)
    except ConfigError as error:
        faults += error.faults
    try:
        texts = read_prompts(prompts)
    except ConfigError as error:
        faults += [Fault(f"{error.source}: {fault}") for fault in error.faults]
    if faults or shape is None:
        raise ConfigError(faults)
    model, tokenizer = _load(Path(folder), device)
    encoded = [list(tokenizer(text)["input_ids"]) for text in texts]
    _check_lengths(encoded, shape, recording)
    found = tuple(router.layer for router in find_routers(model, shape.num_experts))
    if found != shape.moe_layer_ids:
        fault = Fault("routers are recognised in other layers", value=found, allowed=str(shape.moe_layer_ids))
        raise ConfigError(fault, folder)
    text_config = model.config.get_text_config().to_dict()
    return record_requests(
        model,
        encoded,
        output,
        recording,
        num_experts=shape.num_experts,
        top_k=shape.top_k,
        rule=Rule.of(text_config, shape.top_k),
        name=Path(folder).resolve().name,
        source=f"moesim trace record, {len(encoded)} prompts",
        metadata=_metadata(Path(prompts), recording, model),
        eos=_eos(model),
        progress=progress,
    )


def _shape(folder: str | os.PathLike[str]) -> Model:
    if not Path(folder).is_dir():
        raise ConfigError(Fault("is no folder", "MODEL_DIR", str(folder), "a Hugging Face checkpoint"))
    # A separator, so that a folder named like a catalogue model is taken for the folder it is.
    model = load_model(Path(folder).resolve())
    if model.moe is None:
        raise ConfigError(
            Fault("is a dense model: it routes nothing", "MODEL_DIR", str(folder), "a model with experts")
        )
    return model


def _load(folder: Path, device: str) -> tuple[Any, Any]:
    """Model and tokenizer; whatever transformers raises is about the folder or the device."""
    import torch  # type: ignore[import-not-found, unused-ignore]
    from transformers import (  # type: ignore[import-not-found, unused-ignore]
        AutoModelForCausalLM,
        AutoTokenizer,
        __version__,
    )

    dtype = "dtype" if int(__version__.partition(".")[0]) >= 5 else "torch_dtype"
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        spread = {"device_map": "auto"} if device == "auto" else {}
        model: Any = AutoModelForCausalLM.from_pretrained(folder, **{dtype: "auto"}, **spread, **local)
        if device != "auto":
            model = model.to(torch.device(device))
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(Fault(f"transformers cannot load it: {first}", "MODEL_DIR", str(folder))) from None
    return model.eval(), tokenizer


def _check_lengths(encoded: list[list[int]], shape: Model, recording: Recording) -> None:
    faults = [Fault("has no tokens", f"prompt {i}") for i, ids in enumerate(encoded) if not ids]
    if shape.max_context is not None:
        room = shape.max_context - max(0, recording.max_new_tokens - 1)
        long = [(i, len(ids)) for i, ids in enumerate(encoded) if len(ids) > room]
        allowed = f"at most {room} tokens with --max-new-tokens {recording.max_new_tokens}"
        faults += [Fault("does not fit the model's context", f"prompt {i}", n, allowed) for i, n in long]
    if faults:
        raise ConfigError(faults)


def _eos(model: Any) -> tuple[int, ...]:  # noqa: ANN401 - a transformers model
    eos = model.generation_config.eos_token_id if model.generation_config is not None else None
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list | tuple) else (int(eos),)


def _metadata(prompts: Path, recording: Recording, model: Any) -> dict[str, str]:  # noqa: ANN401
    import torch  # type: ignore[import-not-found, unused-ignore]
    import transformers  # type: ignore[import-not-found, unused-ignore]

    return {
        "model_type": str(model.config.model_type),
        "prompts_sha256": hashlib.sha256(prompts.read_bytes()).hexdigest(),
        "max_new_tokens": str(recording.max_new_tokens),
        "temperature": str(recording.temperature),
        "seed": str(recording.seed),
        "dtype": str(model.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
