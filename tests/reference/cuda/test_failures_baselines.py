"""Baselines where torch is, and what is said where it is not."""

import sys

import numpy as np
import pytest

from moesim.reference.cuda import baselines


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert baselines.absent() == "torch is not installed: no baselines"


def test_torch_without_a_gpu(monkeypatch):
    class Torch:
        __version__ = "2.13.0"

        class cuda:  # noqa: N801
            @staticmethod
            def is_available():
                return False

    monkeypatch.setitem(sys.modules, "torch", Torch)
    assert baselines.absent() == "torch 2.13.0 sees no CUDA device: no baselines"


def test_the_grouped_product_of_torch_takes_our_arguments():
    pytest.importorskip("torch", reason="torch is no part of the test extra")
    found = baselines.grouped(np.array([3, 0, 5, 8], np.int32), n=64, k=32, repeats=1, device="cpu")
    assert found.name in ("torch.nn.functional.grouped_mm", "torch._grouped_mm")
    assert found.flops == 2 * 16 * 64 * 32
    assert found.flops_per_s > 0
