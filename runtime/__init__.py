"""Convert singing with an exported voice. Needs numpy and ONNX Runtime, never torch."""
