"""What decides a corpus: two folders written from equal configurations hold the same audio."""

from dataclasses import dataclass

from ..errors import ConfigError

FORMAT_VERSION = 1
RENDER_VERSION = 4
"""Raised whenever the same configuration would give other audio."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Amounts and seed of the demo corpus. The defaults are the shipped recipe; small values make a smoke corpus."""

    seed: int = 20_240_613
    demo_singers: int = 4
    """Voices that the bundle offers, 1 to 4 of the designed ones."""
    demo_minutes: float = 7.0
    """Training audio per demo voice."""
    other_singers: int = 60
    """Further training singers, for variety."""
    other_minutes: float = 1.1
    """Training audio per further singer."""
    held_out_singers: int = 4
    """Source singers of the parallel test set, never trained on."""
    held_out_songs: int = 5
    """Songs sung in parallel by every held-out singer and every demo voice, never trained on."""
    held_out_seconds: float = 15.5
    clip_seconds: tuple[float, float] = (8.5, 14.5)
    """Training songs last about so long: one clip is one song."""
    recorded_minutes: float = 33.0
    """Training audio resting on recorded human voices, over all of them."""
    recorded_test_minutes: float = 2.5
    """Audio of the recorded voice that is kept from training."""

    def __post_init__(self) -> None:
        if not 1 <= self.demo_singers <= 4:
            raise ConfigError(f"demo_singers is {self.demo_singers}; the corpus has 1 to 4 designed voices")
        for name in ("other_singers", "held_out_singers", "held_out_songs"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it cannot be negative")
        low, high = self.clip_seconds
        if not 2.0 <= low <= high <= 60.0:
            raise ConfigError(f"clip_seconds is {self.clip_seconds}; give (shortest, longest) within 2 to 60 s")
