"""Every networked stage traces to ONNX by its own graph, free in its lengths, and gives what torch gives."""

import numpy as np
import onnxruntime
import pytest
import torch
from baseline_stages import STAGES

from comosvc.benchmarks.baselines.steps import TimedStep
from comosvc.export.graphs.trace import trace

TOLERANCE = 1e-5  # the same float32 arithmetic in another order, as in export.parity
TESTED = [name for name in STAGES if name not in ("content", "teacher", "dpm", "vocoder")]
"""The others are the same networks: soft units hold the content encoder, and samplers differ by their tables."""


def require_equal(stage: TimedStep, lengths_and_batches: tuple[tuple[float, int], ...]) -> None:
    """Traced at the last length and batch, compared at the others; a sampler at its first evaluations and its last."""
    module = stage.build()
    *others, (seconds, batch) = lengths_and_batches
    example = {name: torch.from_numpy(array) for name, array in stage.inputs(seconds, batch).items()}
    session = onnxruntime.InferenceSession(trace(stage.graph, module, example).SerializeToString())
    for seconds, batch in others:
        for index in sorted({0, 1, stage.evaluations - 1}) if stage.carry else [None]:
            inputs = stage.inputs(seconds, batch)
            if index is not None:
                inputs["step_index"] = np.array(index, np.int32)
            with torch.inference_mode():
                wanted = module(**{key: torch.from_numpy(array) for key, array in inputs.items()}).numpy()
            (found,) = session.run(None, inputs)
            assert np.isfinite(wanted).all()
            assert wanted.std() > 0.0
            assert np.linalg.norm(found - wanted) <= TOLERANCE * np.linalg.norm(wanted)


@pytest.mark.parametrize("name", TESTED)
def test_onnx_runtime_gives_what_torch_gives(name):
    require_equal(STAGES[name], ((0.9, 1), (0.25, 3), (0.4, 2)))
