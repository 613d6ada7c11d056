"""Files whose headers claim less or more than they hold."""

import io
import os
import struct
import time
from contextlib import suppress

import numpy as np
import pytest
from sound_files import RATE, SONG, encoded, read, with_size, without_xing, write_bytes

from comosvc.runtime import AudioError
from comosvc.runtime.audio.files import AudioReader

WAV, AIFF, AU, CAF, RF64, FLAC = (encoded(form) for form in ("WAV", "AIFF", "AU", "CAF", "RF64", "FLAC"))
OGG = encoded("OGG", "VORBIS")
FADING = np.where(np.arange(len(SONG)) < RATE // 4, SONG, 1e-3 * SONG).astype(np.float32)
VBR = encoded("MP3", None, FADING, bitrate_mode="VARIABLE", compression_level=0.0)
UNDERSTATED = {
    "WAV without a size": with_size(WAV, b"data", 0, "<I"),
    "WAV with an early size": with_size(WAV, b"data", 88_200, "<I"),
    "RF64 with an early size": RF64[:28] + struct.pack("<Q", 88_200) + RF64[36:],
    "big-endian WAV without a size": with_size(encoded("WAV", endian="BIG"), b"data", 0, ">I"),
    "AIFF with an early size": with_size(AIFF, b"SSND", 88_208, ">I"),
    "AU without a size": AU[:8] + bytes(4) + AU[12:],
    "AU with an early size": AU[:8] + struct.pack(">I", 88_200) + AU[12:],
    "CAF with an early size": with_size(CAF, b"data", 88_204, ">q"),
}
UNKNOWN = {
    "WAV from a pipe": with_size(WAV, b"data", 0xFFFFFFFF, "<I"),
    "WAV from a pipe, by sox": with_size(WAV, b"data", 0x7FFFF000, "<I"),
    "AU from a pipe": AU[:8] + b"\xff\xff\xff\xff" + AU[12:],
    "CAF from a pipe": with_size(CAF, b"data", -1, ">q"),
    "FLAC from a pipe": FLAC[:21] + bytes([FLAC[21] & 0xF0]) + bytes(4) + FLAC[26:],
    "WAV with chunks behind": WAV + b"LIST" + struct.pack("<I", 8_000) + bytes(8_000),
    "WAV with a tag behind": WAV + b"TAG" + bytes(125),
}


@pytest.mark.parametrize("as_object", [False, True])
@pytest.mark.parametrize("name", [*UNDERSTATED, *UNKNOWN])
def test_every_sample_is_read_whatever_the_header_says(tmp_path, name, as_object):
    data = {**UNDERSTATED, **UNKNOWN}[name]
    audio, warnings = read(io.BytesIO(data) if as_object else write_bytes(tmp_path / "a", data))
    np.testing.assert_allclose(audio, SONG, atol=2.0**-15)
    assert warnings == [] if name in UNKNOWN else "3.00 s were read" in warnings[0]


def test_a_wav_beyond_4_gib_is_read_to_its_end(tmp_path):
    """Its size has 32 bits; recorders leave the largest one, or the rest that fits."""
    n_bytes = (1 << 32) + 1_000_000
    for size in (0xFFFFFFFF, n_bytes % (1 << 32)):
        with (tmp_path / "long.wav").open("wb") as file:
            file.write(with_size(WAV, b"data", size, "<I")[: WAV.index(b"data") + 8])
            file.seek(n_bytes - 2, io.SEEK_CUR)
            file.write(b"\1\0")
        with AudioReader(tmp_path / "long.wav") as reader:
            assert reader.claimed_samples == n_bytes // 2


@pytest.mark.parametrize("form", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "MP3"])
def test_a_source_that_was_cut_short_is_read_as_far_as_it_goes(tmp_path, form):
    data = encoded(form, None if form == "MP3" else "PCM_16")
    whole, _ = read(io.BytesIO(data))
    audio, warnings = read(write_bytes(tmp_path / "a", data[: len(data) // 2]), length=1 << 20)
    assert 0.4 * len(SONG) < len(audio) < 0.51 * len(SONG)
    np.testing.assert_array_equal(audio[:50_000], whole[:50_000])
    assert f"{len(audio) / RATE:.2f} of 3.00 s could be read" in warnings[0]


def test_a_single_byte_that_is_missing_is_a_warning():
    audio, warnings = read(io.BytesIO(WAV[:-1]))
    assert (len(audio), "was cut short" in warnings[0]) == (len(SONG) - 1, True)


def test_an_ogg_that_was_cut_short_is_read_with_a_warning():
    audio, warnings = read(io.BytesIO(OGG[: len(OGG) // 2]))
    assert len(audio) > 0.25 * len(SONG)
    assert f"cut short, and how much is missing is not known: {len(audio) / RATE:.2f} s were read" in warnings[0]


def test_an_mp3_without_a_count_is_read_whole(tmp_path):
    """libsndfile guesses the length from the bit rate of the first frames."""
    for data in (without_xing(VBR), b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + without_xing(VBR)):
        audio, _ = read(write_bytes(tmp_path / "a.mp3", data))
        assert len(SONG) <= len(audio) < len(SONG) + 3_000
        begin = FADING[:5_000]
        assert max(np.corrcoef(audio[k : k + 5_000], begin)[0, 1] for k in range(len(audio) - len(SONG))) > 0.7


def test_files_joined_to_one_are_read_to_the_end():
    assert len(read(io.BytesIO(OGG + OGG))[0]) == 2 * len(SONG)
    audio, warnings = read(io.BytesIO(VBR + VBR))
    assert len(audio) >= 2 * len(SONG)
    assert "header gives" in warnings[0]
    assert "could be read" in read(io.BytesIO(FLAC + FLAC))[1][0]
    for data in (WAV, AIFF):
        audio, warnings = read(io.BytesIO(data + data + data))
        np.testing.assert_allclose(audio, np.tile(SONG, 3), atol=2.0**-15)
        assert warnings == []
    audio, warnings = read(io.BytesIO(WAV + WAV[:20]))
    assert (len(audio), "what follows is not audio" in warnings[0]) == (len(SONG), True)


def test_an_mp3_is_read_beside_what_macos_keeps_of_it(tmp_path):
    """libsndfile takes `._a.mp3` for the header of a Sound Designer file."""
    write_bytes(tmp_path / "._a.mp3", b"Mac OS X")
    audio, warnings = read(write_bytes(tmp_path / "a.mp3", VBR))
    assert (len(audio), warnings) == (len(SONG), [])


def test_an_mp3_that_begins_within_a_frame_is_read(tmp_path):
    """As a recorded stream does."""
    for junk in (b"\xff\xfb", bytes(3_000)):
        whole, _ = read(io.BytesIO(without_xing(VBR)))
        audio, warnings = read(write_bytes(tmp_path / "a.mp3", junk + without_xing(VBR)))
        np.testing.assert_array_equal(audio, whole)
        assert warnings == []


TAG = b"ID3\x03\0\0\0\0\x27\x08APIC" + bytes(5_000 - 4)


@pytest.mark.parametrize("data", [TAG + WAV, TAG + FLAC, WAV + TAG], ids=["before WAV", "before FLAC", "behind WAV"])
def test_a_tag_is_no_sound(tmp_path, data):
    for source in (io.BytesIO(data), write_bytes(tmp_path / "a", data)):
        audio, warnings = read(source)
        np.testing.assert_allclose(audio, SONG, atol=2.0**-15)
        assert warnings == []


def test_a_wav_without_sound_but_with_chunks_is_empty():
    start = WAV.index(b"data") + 8
    data = with_size(WAV[:start], b"data", 0, "<I") + b"LIST" + struct.pack("<I", 8_000) + bytes(8_000)
    with pytest.raises(AudioError, match="is empty"):
        read(io.BytesIO(data))


def test_a_source_that_shrinks_while_it_is_read_is_a_warning(tmp_path):
    path = write_bytes(tmp_path / "a.wav", encoded("WAV", audio=np.tile(SONG, 4)))
    with AudioReader(path) as reader:
        for n, _ in enumerate(reader.blocks(RATE)):
            if n == 1:
                os.truncate(path, 1_000)
        assert "of 12.00 s could be read" in reader.warnings[0]


@pytest.mark.parametrize(
    "magic", [b"RIFF", b"RF64", b"FORM", b"caff", b"riff", b".snd", b"OggS", b"ID3\3", VBR[:2_000]]
)
def test_headers_of_nonsense_end_soon(magic):
    for body in (b"\xff" * 3_000_000, bytes(3_000_000), b"data" * 200_000):
        begin = time.perf_counter()
        with suppress(AudioError):  # any other error fails
            read(io.BytesIO(magic + body), length=1 << 20)
        assert time.perf_counter() - begin < 5.0
