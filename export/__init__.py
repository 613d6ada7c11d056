"""From a run folder to a verified bundle. Needs torch and onnx."""
