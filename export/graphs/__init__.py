"""ONNX graphs of the training modules: tracing and parity.

Imports `errors` and `archive`.
"""
