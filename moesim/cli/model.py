"""`moesim model`: what a model is made of, and what it weighs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from moesim.cli.common import Json, print_json, print_table

if TYPE_CHECKING:
    from moesim.model import Model

#: Longer than any sequence; it keeps counts inside what a double holds exactly.
MAX_CONTEXT = 2**40

app = typer.Typer(no_args_is_help=True, help="Models: the catalogue, and what a model weighs.")


@app.command("list")
def list_models(
    json: Json = False,
    moe: Annotated[bool, typer.Option("--moe", help="Leave out dense models.")] = False,
) -> None:
    """List the catalogue."""
    from moesim.model import load_model, names, params

    rows: list[dict[str, Any]] = []
    for name in names():
        model = load_model(name)
        if moe and model.moe is None:
            continue
        count = params(model)
        rows.append(
            {
                "name": name,
                "model_type": model.model_type,
                "num_layers": model.num_layers,
                "num_experts": model.num_experts,
                "top_k": model.top_k,
                "total_params": count.total,
                "active_params": count.active,
            }
        )
    if json:
        print_json({"models": rows}, kind="models")
        return
    print_table(
        ("name", "type", "layers", "experts", "top-k", "total B", "active B"),
        [
            (
                *[row[key] or "-" for key in ("name", "model_type", "num_layers", "num_experts", "top_k")],
                f"{row['total_params'] / 1e9:.1f}",
                f"{row['active_params'] / 1e9:.2f}",
            )
            for row in rows
        ],
    )


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(help="A catalogue name, a Hugging Face id, a config.json or folder.")
    ],
    dtype: Annotated[
        str, typer.Option(help="Type of the weights: auto, bf16, fp16, fp32, fp8, int8, int4, mxfp4, nvfp4.")
    ] = "auto",
    kv_cache_dtype: Annotated[
        str, typer.Option(help="Type of the cache: auto, bf16, fp16, fp8, fp32.")
    ] = "auto",
    context: Annotated[int, typer.Option(help="Tokens of a sequence, for cache and FLOPs.")] = 4096,
    json: Json = False,
) -> None:
    """Show layers, parameters, bytes and FLOPs of a model."""
    from moesim.model import load_model

    _check(dtype, kv_cache_dtype, context)
    model = load_model(name)
    document = _document(model, dtype, kv_cache_dtype, context)
    if json:
        print_json(document, kind="model", inputs=[model.path])
    else:
        _print(model, document)


def _check(dtype: str, kv_cache_dtype: str, context: int) -> None:
    from moesim.errors import ConfigError, Fault
    from moesim.model.cache import CACHE_DTYPES
    from moesim.model.dtypes import dtype_faults

    faults = dtype_faults(dtype) + dtype_faults(kv_cache_dtype, "--kv-cache-dtype", allowed=CACHE_DTYPES)
    if not 1 <= context <= MAX_CONTEXT:
        faults.append(Fault("is out of range", "--context", context, f"1 to {MAX_CONTEXT}"))
    if faults:
        raise ConfigError(faults)


def _document(model: Model, dtype: str, kv_dtype: str, context: int) -> dict[str, Any]:
    from moesim.model import (
        cache_bytes,
        flops_per_token,
        kv_bytes_per_token,
        module_dtypes,
        params,
        weight_bytes,
        weight_bytes_by_module,
    )
    from moesim.model.describe import describe_layer
    from moesim.model.dtypes import BYTES_PER_PARAM

    count = params(model)
    modules = weight_bytes_by_module(model, dtype)
    types = module_dtypes(model, dtype)
    warnings = list(model.warnings)
    if model.max_context and context > model.max_context:
        warnings.append(f"a context of {context} is beyond the model's {model.max_context}")
    return {
        "name": model.name,
        "model_type": model.model_type,
        "hidden_size": model.hidden,
        "vocab_size": model.vocab,
        "max_context": model.max_context,
        "num_layers": model.num_layers,
        "num_encoder_layers": len(model.encoder_layers),
        "num_mtp_layers": len(model.mtp_layers),
        "moe_layer_ids": model.moe_layer_ids,
        "num_experts": model.num_experts,
        "top_k": model.top_k,
        "layers": [{"kind": describe_layer(layer), "count": n} for layer, n in model.distinct_layers()],
        "total_params": count.total,
        "active_params": count.active,
        "active_params_without_embedding": count.active_without_embedding,
        "mtp_params": count.mtp,
        "params": count.components(),
        "dtype": dtype,
        "module_dtypes": {module: types[module] for module in modules},
        "weight_bytes": weight_bytes(model, dtype),
        "weight_bytes_by_module": modules,
        "weight_bytes_by_dtype": {d: weight_bytes(model, d) for d in ("auto", *BYTES_PER_PARAM)},
        "kv_cache_dtype": kv_dtype,
        "kv_bytes_per_token": kv_bytes_per_token(model, kv_dtype),
        "context": context,
        "cache_bytes": float(cache_bytes(model, context, kv_dtype)),
        "flops_per_token": {
            phase: float(flops_per_token(model, context, phase)) for phase in ("prefill", "decode")
        },
        "warnings": warnings,
    }


def _print(model: Model, document: dict[str, Any]) -> None:
    from moesim.cli.common import stderr
    from moesim.units import show as quantity

    total = document["total_params"]
    typer.echo(f"{model.name} ({model.model_type or 'no model_type'})")
    typer.echo(
        f"{total / 1e9:.2f} B parameters, {document['active_params'] / 1e9:.2f} B active"
        f" ({document['active_params_without_embedding'] / 1e9:.2f} B without the embedding)"
    )
    heads = f", {len(model.mtp_layers)} prediction" if model.mtp_layers else ""
    encoder = f", {len(model.encoder_layers)} encoder" if model.encoder_layers else ""
    sizes = f"hidden {model.hidden}, vocabulary {model.vocab}, context {model.max_context or '-'}"
    typer.echo(f"{model.num_layers} layers{encoder}{heads}; {sizes}\n")
    print_table(("layers", "kind"), [(row["count"], row["kind"]) for row in document["layers"]])
    typer.echo("")
    print_table(
        ("component", "params", "share"),
        [(part, f"{n:,}", f"{n / total:.2%}") for part, n in document["params"].items()]
        + [("total", f"{total:,}", f"{1:.2%}")]
        + ([("prediction heads", f"{document['mtp_params']:,}", "-")] if model.mtp_layers else []),
    )
    typer.echo("")
    print_table(
        ("module", "type", "bytes"),
        [
            (module, document["module_dtypes"][module], quantity(size, "bytes"))
            for module, size in document["weight_bytes_by_module"].items()
        ]
        + [("total", document["dtype"], quantity(document["weight_bytes"], "bytes"))],
    )
    typer.echo("")
    print_table(
        ("weights as", "bytes"),
        [(d, quantity(size, "bytes")) for d, size in document["weight_bytes_by_dtype"].items()],
    )
    typer.echo("")
    context = document["context"]
    print_table(
        ("one sequence", f"{document['kv_cache_dtype']} cache"),
        [
            ("growth per token", quantity(document["kv_bytes_per_token"], "bytes")),
            (f"at {context} tokens", quantity(document["cache_bytes"], "bytes")),
            (f"prefill of token {context}", quantity(document["flops_per_token"]["prefill"], "flops")),
            (f"decode of token {context}", quantity(document["flops_per_token"]["decode"], "flops")),
        ],
    )
    for warning in document["warnings"]:
        stderr(f"warning: {warning}")
