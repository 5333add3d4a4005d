"""Bugs planted in the kernels around the experts are found, each within a second."""

import time

import pytest
from mutants import Mutants
from routed_batch import check_layer, sizes

from moesim.reference.cuda.emulate import EmulationError
from moesim.reference.cuda.routing import PROGRAM_FILES

pytestmark = pytest.mark.emulation

BUGS = [
    # a slab of the router begins where the first does
    ("(begin + step) * ROUTER_STEP", "step * ROUTER_STEP"),
    # halves of the router's weights change places
    ("2 * part + (lane / 8 & 1)", "2 * part + (lane / 16 & 1)"),
    # rows of logits change places
    ("token + top + 16 * i + lane / 4 + half * 8", "token + top + 16 * i + lane / 4 * 2 + half"),
    # ties go to the higher id
    ("keys[n] > best", "keys[n] >= best && keys[n]"),
    # a choice is made twice
    ("chosen == (u32)(n / 4 * 128 + 4 * lane + n % 4)", "false"),
    # weights that do not sum to one
    ("renormalise ? chosen_total : total", "total"),
    # ranks that count the pair itself
    ("__popc(peers & ((1u << lane) - 1))", "__popc(peers & ((2u << lane) - 1)) - (lane > 3)"),
    # ranks that know nothing of the warps before
    ("by_warp[warp * E + expert] + before", "before"),
    # an expert without rows gets a tile
    ("(rows + BM - 1) / BM", "rows / BM + 1"),
    # experts that are not there get tiles
    ("e < E && slot_of_expert[e] >= 0", "e < E"),
    # tiles of all experts are counted from the first row
    ("(i - room.first_tile[e]) * BM", "i * BM"),
    # experts are taken for slots
    (
        "make_int4(slot_of_expert[e], row, room.first_row[e] + room.rows[e], e)",
        "make_int4(e, row, room.first_row[e] + room.rows[e], e)",
    ),
    # the ticket is not given back
    ("atomicAdd(ticket, 1u) == gridDim.x - 1", "atomicAdd(ticket, 1u) == gridDim.x"),
    # all chunks begin where the first does
    ("(i64)(pair / chunk) * E + ids[pair]", "ids[pair]"),
    # rows of another token
    ("rows[(t - token) * k + j]", "rows[j]"),
    # a place is written by blocks that do not know the token
    ("(pair / k) * wide >= begin", "(pair / k) * wide > begin"),
    # what was never computed is added
    ("slot_of_expert[ids[pair]] < 0 ? -1 : place[pair]", "place[pair]"),
    # shares of the choice before
    ("shares[at + j + a]", "shares[at + j]"),
    # halves of a word change places
    ("fmaf(share, unpack_lo(words[w]), sum[2 * w])", "fmaf(share, unpack_hi(words[w]), sum[2 * w])"),
]
#: Orders memory between blocks, which are run one after the other here.
UNSEEN = "no barrier before: if (threadIdx.x == 0) room.last"
CASES = [sizes(5, 40, 2, 320), sizes(180, 70, 6, 448)]


@pytest.fixture(scope="session")
def mutants():
    return Mutants(PROGRAM_FILES, BUGS)


def found(emulation) -> str:
    """How a bug shows, or nothing."""
    for order in (0, 1, 7):
        for case in CASES:
            try:
                check_layer(emulation, case, order)
            except (EmulationError, AssertionError, IndexError) as error:
                return str(error) or type(error).__name__
    return ""


def test_kernels_without_bugs_pass(mutants):
    assert not found(mutants.switch(-1))


def test_every_bug_is_found(mutants):
    assert len(mutants.names) > len(BUGS) + 9
    missed, seconds = [], []
    for number, name in enumerate(mutants.names):
        start = time.thread_time()
        if not found(mutants.switch(number)):
            missed.append(name)
        seconds.append(time.thread_time() - start)
    assert len(missed) == 1, missed
    assert missed[0].startswith(UNSEEN)
    assert max(seconds) < 5
