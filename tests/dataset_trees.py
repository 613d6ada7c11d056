"""Small trees of the shape that M4Singer and OpenSinger are published in, with tones in place of singers."""

import json
from pathlib import Path

import numpy as np
import soundfile

RATE = 24_000


def tone(f0_hz: float, seconds: float = 0.7, rate: int = RATE) -> np.ndarray:
    """A harmonic tone that the pitch graph hears, (L,)."""
    t = np.arange(round(seconds * rate)) / rate
    return sum(np.cos(2 * np.pi * f0_hz * k * t) / k for k in range(1, 10)) * 0.1


def write(path: Path, audio: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate)
    return path


def m4singer(folder: Path, singers: dict[str, float], songs: tuple[str, ...], clips: int = 2) -> Path:
    """`<singer>#<song>/0000.wav` with a .TextGrid and a .mid beside it, and meta.json."""
    meta = []
    for singer, f0_hz in singers.items():
        for number, song in enumerate(songs):
            for clip in range(clips):
                stem = folder / f"{singer}#{song.replace(' ', '-')}" / f"{clip:04d}"
                write(stem.with_suffix(".wav"), tone(f0_hz * 2 ** ((number + clip) / 12)))
                stem.with_suffix(".TextGrid").write_text('File type = "ooTextFile"\n', "utf-8")
                stem.with_suffix(".mid").write_bytes(b"MThd")
                meta.append(
                    {
                        "item_name": f"{singer}#{song}#{clip:04d}",
                        "txt": f"歌{number}词{clip}",
                        "phs": ["<AP>", "g", "e"],
                        "is_slur": [0, 0, 0],
                        "ph_dur": [0.1, 0.1, 0.5],
                        "notes": [0, 60, 60],
                        "notes_dur": [0.1, 0.6, 0.6],
                    }
                )
    (folder / "meta.json").write_text(json.dumps(meta, ensure_ascii=False), "utf-8")
    return folder


def opensinger(folder: Path, singers: dict[str, float], songs: tuple[str, ...], clips: int = 2) -> Path:
    """`ManRaw/0_<song>/0_<song>_0.wav` with .lab and .txt; `singers` are "Man_0" and the like."""
    for singer, f0_hz in singers.items():
        group, number = singer.split("_")
        for i, song in enumerate(songs):
            for clip in range(clips):
                stem = folder / f"{group}Raw" / f"{number}_{song}" / f"{number}_{song}_{clip}"
                write(stem.parent / f"{stem.name}.wav", tone(f0_hz * 2 ** ((i + clip) / 12)))
                (stem.parent / f"{stem.name}.txt").write_text(f"歌{i}词{clip}\n", "utf-8")
                (stem.parent / f"{stem.name}.lab").write_text("g e c i\n", "utf-8")
        (folder / f"{group}Raw" / ".DS_Store").write_bytes(b"\0")
    return folder
