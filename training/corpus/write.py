"""Writing the demo corpus: each clip is made alone and put in place whole, so a killed run goes on where it was."""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
from safetensors.numpy import save_file

from ...runtime.storage import replacing, write_whole
from ..errors import DataError
from .phones import PHONES
from .plan import (
    FORMAT_VERSION,
    RENDER_VERSION,
    ClipPlan,
    CorpusConfig,
    data_card,
    demo_singers,
    noise_seed,
    perform_plan,
    synthetic_clips,
)
from .reader import Labels
from .recorded import SpokenPlan, require_recorded_voices, speak_plan, spoken_clips
from .render import SAMPLE_RATE, render

Progress = Callable[[int, int, str], None]
_BYTES_PER_SECOND = 45_000  # FLAC of 16-bit mono at 24 kHz, generously
_CONFIG_FILE = "corpus-config.json"


def write_corpus(
    config: CorpusConfig,
    out: Path,
    progress: Progress | None = None,
    synthetic_only: bool = False,
    jobs: int = 1,
) -> Path:
    """Write the corpus to the folder `out` with `jobs` processes and return the path of its corpus.json.

    Clips that are there already are kept; `progress(done, total, clip)` is called after each. Raises DataError where
    recorded voices are missing (unless `synthetic_only`), the disk is too full, or `out` holds a corpus of another
    configuration.
    """
    if not synthetic_only:
        require_recorded_voices()
    plans: list[ClipPlan | SpokenPlan] = [*synthetic_clips(config)]
    if not synthetic_only:
        plans += spoken_clips(config)
    _claim(out, config, synthetic_only)
    missing = [plan for plan in plans if not all(path.is_file() for path in _paths(out, plan.id))]
    needed = int(len(missing) * max(config.clip_seconds[1], config.held_out_seconds) * _BYTES_PER_SECOND)
    if (free := shutil.disk_usage(out).free) < needed:
        raise DataError(f"{out} has {free / 1e6:.0f} MB free, the corpus needs about {needed / 1e6:.0f} MB more")
    done = len(plans) - len(missing)
    for clip_id in _write_clips(config, out, missing, jobs):
        done += 1
        if progress:
            progress(done, len(plans), clip_id)
    return _write_index(config, out, plans, synthetic_only)


def _claim(out: Path, config: CorpusConfig, synthetic_only: bool) -> None:
    """Note the configuration in `out`, or refuse a folder that was begun with another."""
    mine = {
        "recipe": _recipe(synthetic_only),
        "format_version": FORMAT_VERSION,
        "render_version": RENDER_VERSION,
        **json.loads(json.dumps(asdict(config))),
    }
    path = out / _CONFIG_FILE
    if path.is_file():
        theirs = json.loads(path.read_text("utf-8"))
        if theirs != mine:
            keys = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
            changes = ", ".join(f"{key}: {theirs.get(key)} there, {mine.get(key)} now" for key in keys)
            flag = (
                "give --synthetic-only as before"
                if mine["recipe"] != "synthetic-only"
                else "leave --synthetic-only out"
            )
            other = f"{flag}, or " if keys == ["recipe"] else ""
            raise DataError(
                f"{out} holds a corpus of another configuration ({changes})\n"
                f"hint: {other}move {out} away, or give another -o folder"
            )
    elif out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty and holds no corpus\nhint: move {out} away, or give another -o folder")
    (out / "audio").mkdir(parents=True, exist_ok=True)
    (out / "labels").mkdir(exist_ok=True)
    write_whole(path, json.dumps(mine, indent=1).encode())


def _recipe(synthetic_only: bool) -> str:
    return "synthetic-only" if synthetic_only else "synthetic+recorded"


def _paths(out: Path, clip_id: str) -> tuple[Path, Path]:
    return out / "audio" / f"{clip_id}.flac", out / "labels" / f"{clip_id}.safetensors"


def _write_clips(config: CorpusConfig, out: Path, plans: list[ClipPlan | SpokenPlan], jobs: int) -> Iterator[str]:
    if jobs <= 1 or len(plans) <= 1:
        for plan in plans:
            yield _write_clip(config, out, plan)
        return
    with ProcessPoolExecutor(min(jobs, len(plans)), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_write_clip, config, out, plan) for plan in plans]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _write_clip(config: CorpusConfig, out: Path, plan: ClipPlan | SpokenPlan) -> str:
    """Make one clip; the label file is renamed into place before the audio, and both only when complete."""
    if isinstance(plan, SpokenPlan):
        audio, labels = speak_plan(config, plan)
    else:
        performance = perform_plan(config, plan.song)
        audio = render(performance, plan.singer, noise_seed(config, plan.id))
        f0_hz = performance.f0_hz.astype(np.float32)
        labels = Labels(f0_hz, performance.phone_start_s, performance.phone)
    audio_path, label_path = _paths(out, plan.id)
    with replacing(label_path) as partial:
        save_file({key: np.ascontiguousarray(value) for key, value in vars(labels).items()}, partial)
    with replacing(audio_path) as partial:
        soundfile.write(partial, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return plan.id


def _write_index(config: CorpusConfig, out: Path, plans: list[ClipPlan | SpokenPlan], synthetic_only: bool) -> Path:
    singers: dict[str, dict] = {}
    clips = []
    demo = {singer.name for singer in demo_singers(config)}
    for plan in plans:
        seconds = soundfile.info(_paths(out, plan.id)[0]).duration
        split = "heldout" if plan.split == "test" else "train"
        if isinstance(plan, SpokenPlan):
            name, song = plan.voice.singer, plan.id
            entry = {"kind": "recorded", "split": split, "demo": False, "tract_scale": plan.voice.tract_scale}
        else:
            name, song = plan.singer.name, plan.song.id
            entry = {"kind": "synthetic", "split": split, "demo": name in demo, **plan.singer.parameters()}
        singers.setdefault(name, entry)
        clip = {"id": plan.id, "singer": name, "song": song, "performance": song, "split": plan.split}
        clips.append({**clip, "seconds": round(seconds, 3)})
    index = {
        "format_version": FORMAT_VERSION,
        "recipe": _recipe(synthetic_only),
        "seed": config.seed,
        "config": asdict(config),
        "sample_rate": SAMPLE_RATE,
        "phones": list(PHONES),
        "data_card": data_card(clips, singers),
        "singers": singers,
        "clips": clips,
    }
    path = out / "corpus.json"
    write_whole(path, json.dumps(index, indent=1).encode())
    return path
