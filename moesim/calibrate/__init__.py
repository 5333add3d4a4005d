"""Calibration: fit what the cost model needs from measurements."""

from moesim.calibrate.kernel_file import Calibrated, calibrate, text_of
from moesim.calibrate.rows import Rows
from moesim.calibrate.surfaces import Error, Fitted, modelled, predicted_apart
from moesim.calibrate.tables import BACKENDS, folder_of, folders, read_tables

__all__ = [
    "BACKENDS",
    "Calibrated",
    "Error",
    "Fitted",
    "Rows",
    "calibrate",
    "folder_of",
    "folders",
    "modelled",
    "predicted_apart",
    "read_tables",
    "text_of",
]
