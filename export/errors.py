"""Errors of export, import and verification."""

from ..runtime.errors import ComosvcError


class ExportError(ComosvcError):
    """A run folder or a graph that cannot become part of a bundle; says which and why."""


class ParityError(ComosvcError):
    """ONNX and torch disagree, or a bundle no longer gives its own reference outputs; names graph, sizes and error."""
