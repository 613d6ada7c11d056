"""Everything that can go wrong for a caller. Each message says what happened, with the values, and what to do."""

from .text import printable, shortened


class ComosvcError(Exception):
    """Base of all errors raised on purpose by this package. `str` of one is safe on a terminal, whatever it names,
    and no line of it has more than some thousand characters.
    """

    def __str__(self) -> str:
        return printable("\n".join(map(shortened, super().__str__().split("\n"))))

    @property
    def hint(self) -> str | None:
        """The part of the message after "hint: "; None without a hint."""
        return str(self).partition("\nhint: ")[2] or None


class AudioError(ComosvcError):
    """The audio that came in cannot be used: not there, not audio, damaged, or of the wrong shape, type or rate."""


class BundleError(ComosvcError):
    """The voice bundle cannot be used: not a bundle, damaged, of another version, or not what its manifest says."""


class ProviderError(ComosvcError):
    """The provider or precision asked for does not run here, or failed while running."""


class OptionError(ComosvcError):
    """An argument is out of range or names something that the bundle does not have."""


class OutputError(ComosvcError):
    """The result cannot be written: the file is there already, or the place does not take it."""


class CancelledError(ComosvcError):
    """The caller's progress function returned False."""


class EngineError(ProviderError):
    """A TensorRT engine cannot be built, or one that is there cannot be used; says which and why."""


class NoEnginesError(EngineError):
    """There are no TensorRT engines of this voice that fit; says what there are, and the command that builds them."""
