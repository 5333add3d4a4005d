"""Record which experts a real model chooses, with hooks on a Hugging Face transformers model.

Needs torch and transformers (``pip install 'moesim[record]'``) once it runs, not to be imported.
"""

from moesim.recording.folder import check_installed, record_folder
from moesim.recording.generate import Recorded, Recording, record_requests
from moesim.recording.prompts import read_prompts
from moesim.recording.recorder import Recorder, Routed
from moesim.recording.routers import Router, find_routers
from moesim.recording.rules import Rule, route

__all__ = [
    "Recorded",
    "Recorder",
    "Recording",
    "Routed",
    "Router",
    "Rule",
    "check_installed",
    "find_routers",
    "read_prompts",
    "record_folder",
    "record_requests",
    "route",
]
