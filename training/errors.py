"""Errors of training and data preparation."""

from ..runtime.errors import ComosvcError


class ConfigError(ComosvcError):
    """A configuration that cannot be meant: an unknown key, a wrong type, a value out of range."""


class DataError(ComosvcError):
    """Recordings, a corpus or features that cannot be used; names the file."""


class ForeignFileError(DataError):
    """A checkpoint or configuration of another program that cannot be used; names the file and what is wrong."""


class TrainingError(ComosvcError):
    """Training stopped: a loss that is not finite, a full disk, a run folder that does not match its configuration."""
