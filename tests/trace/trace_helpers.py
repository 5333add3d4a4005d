"""Small traces and files for the tests of this folder."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np

from moesim.trace import LoadCounts, RoutingTrace, Shape

GPT_OSS = Shape("gpt-oss-20b", 24, tuple(range(24)), 32, 4)
QWEN15 = Shape("qwen1.5-moe-a2.7b", 24, tuple(range(24)), 60, 4)
DEEPSEEK_V3 = Shape("deepseek-v3", 61, tuple(range(3, 61)), 256, 8)
DEEPSEEK_LITE = Shape("deepseek-v2-lite", 27, tuple(range(1, 27)), 64, 6)
OLMOE = Shape("olmoe-1b-7b", 16, tuple(range(16)), 64, 8)
MIXTRAL = Shape("mixtral-8x7b", 32, tuple(range(32)), 8, 2)
KNOWN = (DEEPSEEK_V3, QWEN15, GPT_OSS, DEEPSEEK_LITE, OLMOE, MIXTRAL)
#: One dense layer, two MoE layers.
TINY = Shape("tiny", 3, (1, 2), 8, 2)


def random_ids(rng, tokens, layers, experts, top_k):
    """Distinct experts per token and layer."""
    return rng.random((tokens, layers, experts)).argsort(axis=2)[:, :, :top_k]


def make_trace(tokens=50, shape=TINY, seed=0, weights=False, token_id=False, requests=3):
    rng = np.random.default_rng(seed)
    ids = random_ids(rng, tokens, len(shape.moe_layer_ids), shape.num_experts, shape.top_k)
    request = np.sort(rng.integers(0, requests, tokens)).astype(np.int32)
    position = np.concatenate([np.arange(n) for n in np.bincount(request)]).astype(np.int32)
    return RoutingTrace(
        topk_ids=ids.astype(np.uint8 if shape.num_experts <= 256 else np.uint16),
        request=request,
        num_experts=shape.num_experts,
        moe_layer_ids=shape.moe_layer_ids,
        position=position,
        phase=(position > 4).astype(np.int8),
        topk_weights=rng.random(ids.shape).astype(np.float16) if weights else None,
        token_id=rng.integers(0, 50000, tokens).astype(np.int32) if token_id else None,
        model=shape.name,
        source="made up",
        licence="CC0",
        warnings=("a warning",),
        metadata={"note": "é"},
    )


def make_counts(steps=1, shape=TINY, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 100, (steps, len(shape.moe_layer_ids), shape.num_experts))
    return LoadCounts(
        counts.astype(np.float64), shape.moe_layer_ids, shape.top_k, shape.name, "made up", "CC0"
    )


def same(a, b, **changed):
    """Whether two traces agree in every field, but for the changes named."""
    a = replace(a, **changed)
    for name in a.__dataclass_fields__:
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y, err_msg=name)
            assert x.dtype == y.dtype, name
        else:
            assert x == y, name
    return True


STORAGES = {
    "f8": "Double",
    "f4": "Float",
    "f2": "Half",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "u1": "Byte",
}


class FakeTorch:
    """Enough of torch to pickle tensors as ``torch.save`` does, and nothing to load them with."""

    def __init__(self, monkeypatch):
        self.torch, self.utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
        self.torch._utils = self.utils
        for name in (*STORAGES.values(), "BFloat16"):
            kind = type(f"{name}Storage", (), {"__module__": "torch"})
            setattr(self.torch, f"{name}Storage", kind)

        def rebuild(*_):
            raise AssertionError("a pickle of torch was really unpickled")

        rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = (
            "torch._utils",
            *["_rebuild_tensor_v2"] * 2,
        )
        self.utils._rebuild_tensor_v2 = rebuild
        monkeypatch.setitem(sys.modules, "torch", self.torch)
        monkeypatch.setitem(sys.modules, "torch._utils", self.utils)

    def tensor(self, array, storage_type=None, size=None, stride=None, offset=0, numel=None):
        name = storage_type or STORAGES[array.dtype.str[1:]]
        fake = self

        class Tensor:
            data = np.ascontiguousarray(array)

            def __reduce_ex__(self, _):
                shape = size or array.shape
                steps = stride or tuple(s // array.itemsize for s in self.data.strides)
                storage = Storage()
                return fake.utils._rebuild_tensor_v2, (storage, offset, shape, steps, False, OrderedDict())

        class Storage:
            kind = getattr(fake.torch, f"{name}Storage")
            content = Tensor.data.tobytes()
            length = numel if numel is not None else array.size

        return Tensor()

    def save(self, value, path: Path, byteorder=b"little", protocol=2, compress=zipfile.ZIP_STORED):
        stream, storages = io.BytesIO(), []

        class Pickler(pickle.Pickler):
            def persistent_id(self, obj):
                if type(obj).__name__ == "Storage":
                    storages.append(obj.content)
                    return ("storage", obj.kind, str(len(storages) - 1), "cpu", obj.length)
                return None

        Pickler(stream, protocol).dump(value)
        with zipfile.ZipFile(path, "w", compress) as archive:
            archive.writestr("archive/data.pkl", stream.getvalue())
            archive.writestr("archive/byteorder", byteorder)
            for i, content in enumerate(storages):
                archive.writestr(f"archive/data/{i}", content)
            archive.writestr("archive/version", b"3\n")
        return path
