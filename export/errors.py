"""Errors of export, import and verification."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..runtime.errors import BundleError, ComosvcError


class ExportError(ComosvcError):
    """A run folder or a graph that cannot become part of a bundle; says which and why."""


class ParityError(ComosvcError):
    """ONNX and torch disagree, or a bundle no longer gives its own reference outputs; names graph, sizes and error."""


@contextmanager
def as_bundle_error(what: str) -> Iterator[None]:
    """Turns errors of libraries on a graph or file of a bundle, `what`, into `BundleError`."""
    try:
        yield
    except ComosvcError:
        raise
    except Exception as error:  # onnx and ONNX Runtime have no base in common but this
        raise BundleError(f"{what} fails: {error}") from error
