"""Calls to the driver, through NVIDIA's own Python package, on a driver that is not one."""

import pytest

from tests.reference.cuda.fake_gpu import run

pytestmark = pytest.mark.emulation

pytest.importorskip("cuda.bindings")


def said(code: str, **options: object) -> str:
    done = run(code, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


REPORT = """
from moesim.errors import MoesimError
def report(action):
    try:
        action()
    except MoesimError as error:
        print(f"{type(error).__name__}: {error}")
"""


def test_memory_copies_kernels_events_and_graphs():
    code = """
from moesim.reference.cuda.graph import Flush, time
backend = open_backend()
assert (backend.name, backend.capability, backend.multiprocessors) == ("Fake GPU", (9, 0), 3)
facts = backend.facts()
assert (facts["driver_cuda"], facts["capability"], facts["copy_engines"]) == ("13.0", [9, 0], 1)
assert facts["memory_bytes"] == 2**30 and facts["nvrtc"][:2] in ("12", "13")
array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
held = upload(backend, array)
assert (download(backend, held) == array).all()
assert (download(backend, held.rows(1, 2)) == array[1:]).all()
page = backend.pinned((2, 3, 4), np.float32)
copies = backend.stream()
done = backend.event()
backend.copy(page, held, copies)
backend.record(done, copies)
backend.wait(done)
assert (page == array).all()
backend.fill(held)
assert not download(backend, held).any()
other = backend.empty((2, 3, 4), np.float32)
backend.copy(other, held)
assert not download(backend, other).any()
sink = backend.empty((1,), np.uint32)
words = upload(backend, np.full((3, 4), 0, np.uint32))
words = upload(backend, np.array([[0x9E3779B9, 0, 0, 0]], np.uint32))
flush = Flush(backend)
reading = Launch(flush.launch.program, "read_all", 2, 64, (words, np.int64(1), sink))
backend.launch(reading)
assert download(backend, sink)[0] == 0x9E3779B9
backend.fill(sink)
graph = backend.capture(lambda stream: backend.launch(reading, stream))
assert download(backend, sink)[0] == 0
graph.launch()
assert download(backend, sink)[0] == 0x9E3779B9
graph.close()
for captured in (False, True):
    assert np.allclose(time(backend, [reading], 3, graph=captured), 1e-6, rtol=0.01)
backend.release(page)
flush.close()
backend.close()
assert fake.fake_blocks() == 0
print(fake.fake_handles())
"""
    # The context and the function are the driver's to give back.
    assert said(code) == "2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"devices": 0},
            "no CUDA device: the driver says CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected",
        ),
        ({"capability": "7.5"}, "Fake GPU: compute capability: is too old for bf16 kernels (got '7.5')"),
    ],
    ids=["no device", "too old"],
)
def test_a_device_that_will_not_do(options, message):
    found = said(REPORT + "report(open_backend)", **options)
    assert found.startswith("ConfigError: " + message)
    assert "\n" not in found


def test_a_device_that_is_not_there():
    found = said(REPORT + "report(lambda: open_backend(ordinal=1))")
    assert found == "ConfigError: no such CUDA device (got 1); allowed: 0 to 0"


def test_memory_that_is_short():
    code = REPORT + "backend = open_backend(); report(lambda: backend.empty((3, 1000, 1000), np.float32))"
    found = said(code, memory=2_000_000)
    assert found == (
        "InfeasibleError: memory of Fake GPU is full: 0.012 GB more are needed, 0.002 GB are free"
    )


def test_a_failed_kernel_is_named_and_said_again():
    code = """
from moesim.reference.cuda.graph import Flush
backend = open_backend()
flush = Flush(backend)
flush()
report(backend.synchronize)
report(lambda: upload(backend, np.zeros(4)))
backend.close()
"""
    first, second = said(REPORT + code, fails="read_all").splitlines()
    assert first == second
    assert first.startswith(
        "KernelError: a kernel failed: CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure"
    )
    assert "started last: read_all" in first


def test_shared_memory_that_a_block_may_not_have():
    code = """
from moesim.reference.cuda.graph import Flush
from dataclasses import replace
backend = open_backend()
launch = Flush(backend).launch
big = lambda size: Launch(launch.program, launch.kernel, 1, 256, launch.args, size)
backend.launch(big(99 * 1024))
report(lambda: backend.launch(big(101 * 1024)))
"""
    found = said(REPORT + code, shared=100 * 1024)
    assert found.startswith(
        "ConfigError: read_all needs more shared memory than a block of Fake GPU may have"
    )


def test_a_call_that_is_refused():
    code = (
        REPORT
        + """
backend = open_backend()
held = upload(backend, np.zeros((4, 64), np.uint16))
report(lambda: backend.tensor_map(held, 257, 64))
print(backend.tensor_map(held, 8, 64).words.shape, (download(backend, held) == 0).all())
"""
    )
    assert said(code).splitlines() == [
        "MoesimError: the CUDA driver refuses cuTensorMapEncodeTiled: CUDA_ERROR_INVALID_VALUE: it failed",
        "(16,) True",
    ]


def test_a_capture_that_fails_is_ended():
    code = """
backend = open_backend()
def body(stream):
    raise KeyError("mine")
try:
    backend.capture(body)
except KeyError:
    print("raised")
held = upload(backend, np.ones(3))
print(download(backend, held))
"""
    assert said(code).splitlines() == ["raised", "[1. 1. 1.]"]
