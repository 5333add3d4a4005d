"""Plan files of serving engines: written whole or not at all, and read without trust.

One module per format: `sglang`, `tensorrt_llm`, `vllm_ascend`, `vllm`, `eplb`. Each says what its engine
takes without a word; here all of that is an error.
"""

from moesim.placement.files.check import PlanCheck, check_plan, read_plan
from moesim.placement.files.emit import EmittedFile, emission_faults, emit_faults, parse_emit, write
from moesim.placement.files.formats import FORMATS, PlanFormat
from moesim.placement.files.launch import Launch
from moesim.placement.files.read import NotAPlanError
from moesim.placement.files.record import read_record, record_path
from moesim.placement.files.target import HasExperts, Target

__all__ = [
    "FORMATS",
    "EmittedFile",
    "HasExperts",
    "Launch",
    "NotAPlanError",
    "PlanCheck",
    "PlanFormat",
    "Target",
    "check_plan",
    "emission_faults",
    "emit_faults",
    "parse_emit",
    "read_plan",
    "read_record",
    "record_path",
    "write",
]
