"""Checkpoints: npz files, fingerprints, specifications and pytrees as JSON."""

from jaxvi._persistence import npz_files, spec_json
from jaxvi._persistence.checkpoints import (
    RUN,
    Checkpoints,
    LaneFile,
    as_folder,
    describe_data,
    load_data,
    run_name,
)
from jaxvi._persistence.fingerprints import fingerprint

__all__ = [
    "RUN",
    "Checkpoints",
    "LaneFile",
    "as_folder",
    "describe_data",
    "fingerprint",
    "load_data",
    "npz_files",
    "run_name",
    "spec_json",
]
