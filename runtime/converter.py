"""The public class: load a voice once, convert any number of times."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Literal, cast, overload

import numpy as np
from numpy.typing import NDArray

from .audio.files import check_ending
from .audio.frames import clip_frames
from .audio.resampling import Channel, blocks, check_channel, check_rate, mixed
from .audio.sources import Openable
from .audio.spec import AudioSpec
from .conversion.calls import Batches, Runnable, Runner
from .conversion.clips import BLOCK_S, Meter, Outcome, Progress, convert_blocks, track_f0
from .conversion.cores import check_threads
from .conversion.file_jobs import FileJob, convert_job, jobs_into, make_folder
from .conversion.request import Conversion, FileConversion, Key, Latency, Options, Request, make_request, with_tracks
from .conversion.stages import Clip, run, run_clips
from .conversion.stream import SingerChoice, Stream, stream_key
from .errors import ComosvcError, OptionError, ProviderError, abridged, check_progress, milliseconds, whole_number
from .providers import AT_ONCE, ON_GPU, OpenedVoice, Precision, Provider, choose_provider, open_core_pool, open_voice
from .providers.device_arrays import ArrayOnGpu, DeviceArray, fetch, is_on_device
from .providers.gpu import Device
from .providers.self_test import SelfTest, probe_errors, run_self_test
from .providers.tensorrt.cache import EngineRecord
from .providers.transfers import Transfers
from .storage import reason, remove_stale
from .voice.bundle import open_bundle, shipped_voices
from .voice.manifest import Manifest
from .voice.singers import Singer, singers_of

FileClip = Clip[tuple[Outcome | None, int, Path]]
Ending = Literal[".wav", ".flac"]
MOST_FILES = 256
"""Limit of the files that `convert_many` has open at a time; systems allow a process about a thousand."""
_LONG_S = 30.0
"""Clips from this length on are worth opening the graphs again for single cores, a second or so, once."""


class Converter:
    """A voice, loaded and ready.

    `model` is a shipped name, a .comosvc file, or its unpacked folder. Safe to use from several threads at once;
    nothing is kept between calls but the graphs. Raises `BundleError`, `ProviderError` or `OptionError`.

    A pickle or copy holds path and options, and opens the voice again. In a forked child the first call opens the
    graphs again on the CPU; on other providers it raises `ProviderError`.

    `provider`: "cpu", "openvino", "cuda", "tensorrt", or "auto" for the best that works here (see
    `Converter.provider`). `precision`: "fp32", "bf16" (openvino), another precision of the voice's graphs, or "auto".
    `threads`: number of threads; None: the engine's choice. Clips from 30 s on, and files that are converted together,
    are computed in pieces side by side. `cache_dir`: used instead of $COMOSVC_HOME. `comosvc-export engines` builds
    TensorRT's engines; so does this class with COMOSVC_BUILD_ENGINES=1 in the environment.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "demo",
        *,
        provider: Provider = "auto",
        precision: Precision = "auto",
        threads: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self._threads = check_threads(threads)
        chosen = choose_provider(provider, precision)
        self._bundle = open_bundle(model, None if cache_dir is None else Path(cache_dir).absolute())
        # The given names, since another machine may choose otherwise; absolute paths, for other working folders.
        shipped = isinstance(model, str) and model in shipped_voices()
        self._arguments: dict[str, Any] = {
            "model": model if shipped else str(Path(model).absolute()),
            "provider": provider,
            "precision": precision,
            "threads": self._threads,
            "cache_dir": None if cache_dir is None else str(Path(cache_dir).absolute()),
        }
        opened = open_voice(self._bundle, chosen, precision, self._threads, auto=provider == "auto")
        self._provider, self._precision = opened.provider, opened.precision
        self._singers = MappingProxyType(singers_of(self._bundle))
        self._use(opened)
        self._at_once = AT_ONCE[self.provider] if self._core_pool is None else self._core_pool.cores
        self._device: Device | None = None
        self._audio_crossed = Transfers()

    def _use(self, opened: OpenedVoice) -> None:
        """Compute with these graphs, in this process."""
        self._graphs: Mapping[str, Runnable] | None = opened.graphs
        self._core_pool = open_core_pool(opened, self._bundle, self._threads)
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        if self._graphs is None:
            raise _closed()
        return self._arguments

    def __setstate__(self, state: dict[str, Any]) -> None:
        Converter.__init__(self, **state)

    def __repr__(self) -> str:
        closed = ", closed" if self._graphs is None else ""
        runs = f"provider={self.provider!r}, precision={self.precision!r}"
        return f"<Converter {self._bundle.origin!r}, {runs}, singers={list(self.singers)}{closed}>"

    @property
    def provider(self) -> str:
        """The provider in use: "cpu", "openvino", "cuda" or "tensorrt"; never "auto"."""
        return self._provider

    @property
    def precision(self) -> str:
        """The precision in use: "fp32", "bf16", "fp16" or "int8"; never "auto"."""
        return self._precision

    @property
    def singers(self) -> Mapping[str, Singer]:
        """The voice's singers by name. The first is the default."""
        return self._singers

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle: licences, contexts, look-ahead, provenance."""
        return self._bundle.manifest

    @property
    def spec(self) -> AudioSpec:
        """Rate, framing and mel scale of the voice."""
        return self.manifest.audio

    def frames(self, n_samples: int, sample_rate: int) -> int:
        """T, the mel frames of a clip of `n_samples`: the length of `f0_hz`, `mel` and `noise`, in and out.

        Raises `OptionError`.
        """
        n_samples = whole_number("n_samples", n_samples, 0, 2**63 - 1)
        return clip_frames(n_samples, check_rate(sample_rate), self.spec, self.manifest.front_end)

    @overload
    def convert(  # pyright: ignore[reportOverlappingOverload] - numpy's arrays, which export DLPack too, match first
        self,
        audio: NDArray[Any],
        sample_rate: int,
        singer: SingerChoice = None,
        key: Key = 0.0,
        seed: int = 0,
        steps: int | None = None,
        latency: Latency = "default",
        f0_hz: NDArray[np.floating] | None = None,
        noise: NDArray[np.floating] | None = None,
        progress: Progress | None = None,
        channel: Channel = "mid",
    ) -> Conversion[NDArray[np.float32]]: ...

    @overload
    def convert(
        self,
        audio: ArrayOnGpu,
        sample_rate: int,
        singer: SingerChoice = None,
        key: Key = 0.0,
        seed: int = 0,
        steps: int | None = None,
        latency: Latency = "default",
        f0_hz: NDArray[np.floating] | None = None,
        noise: NDArray[np.floating] | None = None,
        progress: Progress | None = None,
        channel: Channel = "mid",
    ) -> Conversion[DeviceArray]: ...

    def convert(
        self,
        audio: NDArray[Any] | ArrayOnGpu,
        sample_rate: int,
        singer: SingerChoice = None,
        key: Key = 0.0,
        seed: int = 0,
        steps: int | None = None,
        latency: Latency = "default",
        f0_hz: NDArray[np.floating] | None = None,
        noise: NDArray[np.floating] | None = None,
        progress: Progress | None = None,
        channel: Channel = "mid",
    ) -> Conversion[Any]:
        """Convert a clip.

        `audio`: (L,), (L, channels) or (1, L), float32, float64, int16 or int32. `sample_rate`: 8 to 192 kHz. `key`:
        semitones up, "auto" to bring the song's median F0 to the singer's, or "octave" for the nearest multiple of 12,
        which stays in tune with a backing track. `steps`: sampling steps; None: the voice's default, 1 for a student
        and 50 for an imported teacher. `latency`: "low" gives the result of a stream. `f0_hz`: F0 of the source at mel
        frames, (T,), 0 where unvoiced, instead of the pitch graph's; `key` applies to it. `noise`: (T, M), noise of the
        first step instead of that of `seed`. T is `frames(L, sample_rate)`. `progress` is called with the finished
        share, 0 to 1, after each computed piece, and cancels by returning False. `channel`: "left", "right", or "mid",
        the mean of all channels, or the left one where they would cancel each other.

        With a GPU provider `audio` may lie on the GPU: any array with `__cuda_array_interface__` or DLPack, of torch,
        CuPy, Numba or pycuda. The result's audio is then a `DeviceArray` on the GPU.

        Raises `AudioError`, `OptionError`, `ProviderError`, `CancelledError`.
        """
        request, rate = self._request(singer, key, seed, steps, latency), check_rate(sample_rate)
        on_device = is_on_device(audio)
        host = self._fetched(audio) if on_device else cast(NDArray[Any], audio)
        samples, channels, notes = mixed(host, check_channel(channel))
        shape = self.frames(len(samples), rate), self.spec.n_mels
        request = with_tracks(request, f0_hz, noise, shape, self.spec.sample_rate)
        pieces: list[NDArray[np.float32]] = []
        meter = self._meter(request, progress)
        meter.expect(len(samples), rate)

        def sink(piece: NDArray[np.float32]) -> None:
            pieces.append(piece)
            meter.written(len(piece))

        request = replace(request, at_once=self._pieces_at_once(len(samples) / rate))
        read = partial(blocks, samples, round(BLOCK_S * request.at_once * rate))
        clip = Clip(convert_blocks(self.manifest, request, read, rate, channels, sink, keep=True), meter.computed)
        outcome = run(clip, self._runner())
        meter.finish()
        assert outcome.mel is not None
        assert outcome.f0_hz is not None
        converted = np.concatenate(pieces)
        return Conversion(
            audio=self._on_device(converted) if on_device else converted,
            sample_rate=rate,
            f0_hz=outcome.f0_hz,
            mel=outcome.mel,
            timings_ms=_timings_ms(outcome, clip.busy_ms),
            options=self._options(request, outcome),
            warnings=(*notes, *outcome.warnings),
        )

    def convert_file(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        output: str | os.PathLike[str] | BinaryIO,
        *,
        singer: SingerChoice = None,
        key: Key = 0.0,
        seed: int = 0,
        steps: int | None = None,
        latency: Latency = "default",
        overwrite: bool = False,
        progress: Progress | None = None,
        channel: Channel = "mid",
        ending: Ending | None = None,
    ) -> FileConversion:
        """Convert a file of any length in constant memory; the samples are those of `convert`.

        `source`: a path or a file object with WAV, FLAC, OGG, MP3 or another format of libsndfile; with the extra
        `media` also M4A and others. Damaged sources are read as far as possible, with `warnings`. `output`: a .wav or
        .flac file (24 bit, mono, the source's rate; WAV beyond 4 GiB is RF64), which appears when complete, or not at
        all. A file object gets all bytes at the end, in the format of `ending`, else by its name, else WAV.
        `overwrite`: replace an existing file. Other arguments as in `convert`. Raises `OutputError` as well.
        """
        request = self._request(singer, key, seed, steps, latency)
        if ending is not None:
            check_ending(ending)
        job = FileJob(
            _openable(source, "read"), _openable(output, "write"), channel=check_channel(channel), object_ending=ending
        )
        if isinstance(job.output, Path):
            remove_stale(job.output.parent)
        clip = self._file_clip(request, job, overwrite, progress)
        run(clip, self._runner())
        return self._file_result(clip, request, job)

    def convert_many(
        self,
        sources: Iterable[str | os.PathLike[str] | BinaryIO],
        output: str | os.PathLike[str],
        *,
        singer: SingerChoice = None,
        key: Key = 0.0,
        seed: int = 0,
        steps: int | None = None,
        latency: Latency = "default",
        overwrite: bool = False,
        ending: Ending = ".wav",
        batch: int | None = None,
        progress: Callable[[Path, float], Any] | None = None,
        channel: Channel = "mid",
        skip_existing: bool = False,
    ) -> Iterator[FileConversion]:
        """Convert files into the folder `output`, `batch` at a time; each is yielded when done.

        Their graph calls are batched on a GPU, and spread over the cores of a processor. `batch` None: the provider's
        default. Results are named `<song>_<singer>_<key>key` + `ending` (".wav" or ".flac"). A file that fails is
        yielded with its `error`, and the others go on. `skip_existing` skips sources whose result exists; these are
        yielded with `skipped` true. `progress` is called with the source and its finished share, 0 to 1; returning
        False cancels that file, whose `error` is then a `CancelledError`. Other arguments as in `convert_file`; wrong
        ones raise at once.
        """
        if isinstance(sources, str | os.PathLike):
            raise OptionError(
                f"sources is one path, {os.fspath(sources)!r}; it must be several\n"
                "hint: convert_many([path], folder), or convert_file(path, file)"
            )
        request = self._request(singer, key, seed, steps, latency)
        check_ending(ending)
        check_channel(channel)
        check_progress(progress)
        batch = self._at_once if batch is None else whole_number("batch", batch, 1, MOST_FILES)
        if not isinstance(sources, Iterable):
            raise OptionError(f"sources is {abridged(sources)}; it must be several paths or file objects")
        if not isinstance(output, str | os.PathLike):
            raise OptionError(f"output is {abridged(output)}; it must be the path of a folder")
        opened = [_openable(source, "read") for source in sources]
        make_folder(Path(output))
        jobs = jobs_into(Path(output), opened, request, ending, channel, skip_existing)
        return self._convert_jobs(jobs, request, overwrite, batch, progress)

    def _convert_jobs(
        self,
        jobs: Iterable[FileJob],
        request: Request,
        overwrite: bool,
        batch: int,
        progress: Callable[[Path, float], Any] | None,
    ) -> Iterator[FileConversion]:
        started: dict[Clip[Any], FileJob] = {}

        def clips() -> Iterator[FileClip]:
            for job in jobs:
                report = None if progress is None else partial(progress, job.source_path)
                clip = self._file_clip(request, job, overwrite, report)
                started[clip] = job
                yield clip

        for clip in run_clips(clips(), self._runner(batch), batch):
            job = started.pop(clip)
            error = clip.error
            if isinstance(error, OSError | UnicodeError | MemoryError):
                error = ComosvcError(f"{job.source_path}: {reason(error)}")
            if isinstance(error, ComosvcError):
                yield FileConversion(job.source_path, None, error=error)
            else:
                yield self._file_result(clip, request, job)

    def stream(
        self,
        sample_rate: int,
        *,
        singer: SingerChoice = None,
        key: float = 0.0,
        seed: int = 0,
        steps: int | None = None,
        f0_hz: NDArray[np.floating] | None = None,
        block_ms: float = 40.0,
        channel: Channel = "mid",
    ) -> Stream:
        """Convert live: see `Stream`. `block_ms`: usual length of the blocks for `process`, used to warm up.

        Blocks may have any length, but each call computes the graphs' context again: 20 to 40 ms suit a CPU. `f0_hz`:
        F0 of the source at the mel frames of the whole input, (T,); a stream takes no sample beyond it. Other arguments
        as in `convert`. Raises `OptionError`.
        """
        key = stream_key(key)
        request, rate = self._request(singer, key, seed, steps, "low"), check_rate(sample_rate)
        if f0_hz is not None:
            shape = max(1, np.size(f0_hz)), self.spec.n_mels
            request = with_tracks(request, f0_hz, None, shape, self.spec.sample_rate)
        return Stream(
            self._bundle, self._ready, request, rate, milliseconds("block_ms", block_ms), check_channel(channel)
        )

    def track_f0(self, audio: NDArray[Any], sample_rate: int, channel: Channel = "mid") -> NDArray[np.float32]:
        """F0 of a clip in Hz by the voice's pitch graph, (T,) at mel frames, 0 where unvoiced or silent."""
        request, rate = self._request(None, 0.0, 0, 1, "default"), check_rate(sample_rate)
        samples, *_ = mixed(audio, check_channel(channel))
        stages = track_f0(self.manifest, request, blocks(samples, round(BLOCK_S * rate)), rate)
        return run(Clip(stages), self._runner())

    def self_test(self) -> SelfTest:
        """Compare all hashes, each graph with what torch gave at export, and convert a built-in vowel of known pitch.

        Raises `ComosvcError` for any difference.
        """
        self._bundle.verify()
        errors = probe_errors(self._bundle, self._ready(), self.precision)
        return replace(run_self_test(partial(self.convert, steps=1), self.spec), probe_errors=errors)

    def close(self) -> None:
        """Free the graphs. Conversions that are running end normally; new ones raise `ComosvcError`."""
        self._graphs = self._core_pool = None

    def __enter__(self) -> "Converter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def transfers(self) -> Mapping[str, Transfers]:
        """Transfers between host and GPU of each graph since the voice was loaded; empty on the CPU.

        "audio" counts callers' arrays on the GPU, which the host resamples, measures and gates.
        """
        found = {name: getattr(graph, "transfers", None) for name, graph in self._ready().items()}
        crossed = {name: transfers for name, transfers in found.items() if transfers is not None}
        return {**crossed, "audio": self._audio_crossed} if self._audio_crossed.calls else crossed

    @property
    def engines(self) -> EngineRecord | None:
        """The build record of TensorRT's engines; None for other providers."""
        records = (getattr(graph, "record", None) for graph in self._ready().values())
        return next((record for record in records if record is not None), None)

    def _fetched(self, audio: Any) -> NDArray[Any]:
        start = time.perf_counter()
        host = fetch(self._gpu(), audio)
        self._audio_crossed.add({}, {"audio": host.nbytes}, time.perf_counter() - start)
        return host

    def _on_device(self, audio: NDArray[np.float32]) -> DeviceArray:
        start = time.perf_counter()
        array = DeviceArray.of(self._gpu(), audio)
        self._audio_crossed.add({"audio": audio.nbytes}, {}, time.perf_counter() - start)
        return array

    def _gpu(self) -> Device:
        """The GPU. Raises `ProviderError` for a provider that computes elsewhere."""
        if self.provider not in ON_GPU:
            raise ProviderError(
                f"audio lies on the GPU, and provider {self.provider!r} computes on the processor\n"
                "hint: provider='cuda' or 'tensorrt', or a copy in host memory: .cpu().numpy(), .get()"
            )
        self._device = self._device or Device()
        return self._device

    def _ready(self) -> Mapping[str, Runnable]:
        if self._graphs is None:
            raise _closed()
        if self._process != os.getpid():
            self._open_again()
        return self._graphs

    def _open_again(self) -> None:
        """Open the graphs again in a forked child, where their threads are missing. Raises `ProviderError`."""
        if self.provider != "cpu":
            raise ProviderError(
                f"this converter was opened in process {self._process}, of which this one is a fork, and "
                f"{self.provider} does not work in a forked process\n"
                "hint: open it after the fork, or start processes with multiprocessing's 'spawn'"
            )
        self._use(open_voice(self._bundle, self._provider, self._precision, self._threads, auto=False))

    def _runner(self, batch: int | None = None) -> Runner:
        """The runner for calls of up to `batch` conversions at a time."""
        graphs = self._ready()
        return self._core_pool or Batches(graphs, batch or self._at_once)

    def _pieces_at_once(self, seconds: float) -> int:
        """Number of pieces of one clip of this length that are computed at the same time."""
        return 1 if self._core_pool is not None and seconds < _LONG_S else self._at_once

    def _request(self, singer: SingerChoice, key: float | str, seed: int, steps: int | None, latency: str) -> Request:
        self._ready()
        return make_request(self._bundle, singer, key, seed, steps, latency)

    def _file_clip(self, request: Request, job: FileJob, overwrite: bool, progress: Progress | None) -> FileClip:
        meter = self._meter(request, progress)
        stages = convert_job(self.manifest, request, job, overwrite, self._pieces_at_once, meter)
        return Clip(stages, meter.computed)

    def _file_result(self, clip: FileClip, request: Request, job: FileJob) -> FileConversion:
        outcome, rate, output = clip.result
        if outcome is None:
            return FileConversion(job.source_path, output, skipped=True)
        return FileConversion(
            source=job.source_path,
            output=output,
            seconds=outcome.n_samples / rate,
            sample_rate=rate,
            timings_ms=_timings_ms(outcome, clip.busy_ms),
            options=self._options(request, outcome),
            warnings=tuple(outcome.warnings),
        )

    def _meter(self, request: Request, progress: Progress | None) -> Meter:
        return Meter(progress, self.spec, request.steps, pitch_passes=2 if request.key is None else 1)

    def _options(self, request: Request, outcome: Outcome) -> Options:
        return Options(
            voice=self.manifest.name,
            singer=dict(request.voice.weights),
            key=outcome.key,
            seed=request.seed,
            steps=request.steps,
            latency="low" if request.low_latency else "default",
            provider=self.provider,
            precision=self.precision,
        )


def _closed() -> ComosvcError:
    return ComosvcError("this converter is closed\nhint: make another, or close it later")


def _openable(file: str | os.PathLike[str] | BinaryIO, method: str) -> Openable:
    """A path, or an object that has `method`. Raises `OptionError`."""
    if isinstance(file, str | os.PathLike):
        return Path(file)
    if not hasattr(file, method):
        raise OptionError(f"a file to {method} is {abridged(file)}; it must be a path or a binary file object")
    return file


def _timings_ms(outcome: Outcome, total_ms: float) -> dict[str, float]:
    stages = ("resample", "content", "pitch", "acoustic", "vocoder")
    return {**{stage: outcome.timings_ms[stage] for stage in stages}, "total": total_ms}
