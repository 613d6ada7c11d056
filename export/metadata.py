"""What every exported ONNX file says about itself."""

import json
from dataclasses import asdict

import onnx

from ..runtime.graph import GraphSpec
from ..runtime.version import __version__

FORMAT = "comosvc-graph/1"


def stamp(model: onnx.ModelProto, spec: GraphSpec, extra: dict[str, str] | None = None) -> None:
    """Write format, graph name, our version and the contract into `metadata_props`, replacing what is there."""
    entries = {
        "format": FORMAT,
        "graph": spec.name,
        "comosvc_version": __version__,
        "spec": json.dumps(asdict(spec), sort_keys=True),
        **(extra or {}),
    }
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, entries)
