"""The measures themselves, as formulas. None of them aligns in time: a conversion is as long as its source."""

import unicodedata

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

CEPSTRAL_COEFFICIENTS = 13


def f0_pearson(estimate: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """FPC: Pearson correlation of two F0 curves (T,) in Hz over all frames, 0 = unvoiced counted as it stands.

    As Amphion computes it, whose code the paper's figures come from. NaN where one curve is constant.
    """
    a, b = _same_length(estimate, truth)
    return _pearson(a, b)


def voiced_pearson(estimate: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """`f0_pearson` over the frames voiced in both: the melody alone, without what voicing contributes."""
    a, b = _same_length(estimate, truth)
    both = (a > 0) & (b > 0)
    return _pearson(a[both], b[both])


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if len(a) < 2 or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def f0_rmse_cents(estimate: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Root mean square error of F0 in cents over the frames voiced in both, octave errors and all. NaN without any."""
    a, b = _same_length(estimate, truth)
    both = (a > 0) & (b > 0)
    if not both.any():
        return float("nan")
    return float(np.sqrt(np.mean(np.square(1200.0 * np.log2(a[both] / b[both])))))


def mel_l1(estimate: NDArray[np.floating], truth: NDArray[np.floating], log_base: float) -> float:
    """Mean absolute difference of two log-mels (T, M) of base `log_base`, in nepers."""
    a, b = _same_length(estimate, truth)
    return float(np.mean(np.abs(a - b)) * np.log(log_base))


def mel_cepstral_distortion(
    estimate: NDArray[np.floating],
    truth: NDArray[np.floating],
    log_base: float,
    coefficients: int = CEPSTRAL_COEFFICIENTS,
) -> float:
    """MCD in dB of two log-mels (T, M): 10 / ln 10 * sqrt(2 sum_{d=1..D} (c_d - c'_d)^2), mean over frames.

    c are the cosine coefficients of the log magnitude in nepers along the mel axis; c_0, the level, is left out.
    Figures from WORLD or SPTK cepstra are on another warping of frequency and do not compare.
    """
    a, b = _same_length(estimate, truth)
    n_mels = a.shape[1]
    cepstra = dct((a - b) * np.log(log_base), type=2, norm="ortho", axis=1) * np.sqrt(2.0 / n_mels)
    distance = np.sqrt(2.0 * np.square(cepstra[:, 1 : coefficients + 1]).sum(axis=1))
    return float(10.0 / np.log(10.0) * distance.mean())


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Cosine of the angle between two vectors (D,)."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def readable(text: str) -> str:
    """`text` as recognisers are compared: compatibility forms unified, no case, no spaces, no punctuation."""
    unified = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in unified if unicodedata.category(c)[0] not in "ZPCS")


def _same_length(
    estimate: NDArray[np.floating], truth: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both over the frames that both have, in float64: one system may keep a last, partial frame."""
    n_frames = min(len(estimate), len(truth))
    return estimate[:n_frames].astype(np.float64), truth[:n_frames].astype(np.float64)
