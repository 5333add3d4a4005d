"""What of its bandwidth a unit beside the memory reaches, from the timing of the memory.

The main processor hides changes of rows behind reads from other banks. A unit that reads all banks of a
bundle (or all banks there are) with one command opens and closes their rows together: nothing is left to read
meanwhile. Duplex lays an expert out in one bundle of banks (arXiv:2409.01141, section V-C).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RowTiming:
    """Timing of a DRAM row, in cycles of its clock.

    Parameters
    ----------
    columns
        Reads that a row of a bank holds.
    column
        From a read to the next of the same bank (tCCD_L).
    read_to_precharge, precharge, activate
        tRTP, tRP and tRCD: from the last read of a row to the first one of the next.
    refresh, refresh_interval
        tRFC and tREFI: how long a channel stands still, and how often.
    """

    columns: int
    column: int
    read_to_precharge: int
    precharge: int
    activate: int
    refresh: int
    refresh_interval: int


#: HBM3 at 5.2 Gbit/s per pin, 8 Gbit per channel (16 GB per stack): rows of 1 KiB, 32 bytes per read. From
#: the memory model that AttAcc and Duplex were simulated with (scale-snu/attacc_simulator, Ramulator 2, its
#: HBM3_5.2Gbps and HBM3_8Gb_2R, refresh of all banks: 350 ns; arXiv:2409.01141, section VI).
HBM3 = RowTiming(
    columns=32, column=4, read_to_precharge=6, precharge=19, activate=19, refresh=455, refresh_interval=5070
)


def refresh_efficiency(timing: RowTiming) -> float:
    """Share of the time in which no channel refreshes: what any processor gets of the bandwidth.

    >>> round(refresh_efficiency(HBM3), 3)
    0.91
    """
    return 1.0 - timing.refresh / timing.refresh_interval


def row_efficiency(timing: RowTiming) -> float:
    """Share of the time in which all banks together deliver data.

    A row takes ``columns`` reads, ``column`` cycles apart; the next row's first read follows the last one by
    ``read_to_precharge + precharge + activate`` cycles instead. Refresh comes on top.

    Examples
    --------
    >>> round(row_efficiency(HBM3), 3)
    0.762
    """
    reading = timing.columns * timing.column
    turn = timing.read_to_precharge + timing.precharge + timing.activate
    return reading / (reading - timing.column + turn)
