import numpy as np

from comosvc.benchmarks.demo_clips import SAMPLE_RATE, read_audio, read_clips, shipped_folder
from comosvc.benchmarks.metrics import PitchMeter, SingerMeter, f0_errors
from comosvc.runtime import COMOSVC_24K


def test_the_singer_meter_knows_the_demo_voices_and_that_others_are_none():
    clips, identify = read_clips(shipped_folder()), SingerMeter()
    for entry in clips.targets:
        assert identify(read_audio(shipped_folder(), entry), SAMPLE_RATE) == entry.singer
    assert identify(read_audio(shipped_folder(), clips.source), SAMPLE_RATE) == "other"


def test_the_pitch_meter_agrees_with_the_synthesiser():
    clips = read_clips(shipped_folder())
    audio = read_audio(shipped_folder(), clips.source)
    f0_hz = PitchMeter()(audio, SAMPLE_RATE, COMOSVC_24K)
    times_s = (np.arange(len(f0_hz)) + 0.5) * 128 / 24_000
    errors = f0_errors([(f0_hz, clips.f0_at(times_s))], COMOSVC_24K.frame_rate_hz)
    assert errors.gross < 0.01
    assert errors.rmse_cents < 12
    assert errors.voicing < 0.02
