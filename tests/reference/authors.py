"""CoMoSVC written out as formulas, in float64 numpy: what every network and sampler here is measured against.

Nothing of the packages under test is used. `Weights` are float64 arrays under the public checkpoints' own names
(CoMoSVC, NSF-HiFi-GAN, fairseq's ContentVec); weight norm, where a checkpoint has it, is resolved here. Arrays have no
batch: (T, M) mels and conditions, (S, C) content, (L,) audio. All randomness is an argument.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[np.float64]
Weights = Mapping[str, Array]
SIGMA_MIN, SIGMA_MAX, SIGMA_DATA, RHO = 0.002, 80.0, 0.5, 7.0
SPEC_MIN, SPEC_MAX = -6.0, 1.5


# Building blocks


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))


def mish(x: Array) -> Array:
    return x * np.tanh(np.log1p(np.exp(x)))


def leaky_relu(x: Array, slope: float) -> Array:
    return np.where(x > 0.0, x, slope * x)


def layer_norm(x: Array, weight: Array | float = 1.0, bias: Array | float = 0.0) -> Array:
    """Over the last axis."""
    deviation = x - x.mean(axis=-1, keepdims=True)
    return deviation / np.sqrt((deviation**2).mean(axis=-1, keepdims=True) + 1e-5) * weight + bias


def weight_of(w: Weights, name: str, kept_axis: int = 0) -> Array:
    """The weight `name`, or g v / |v| where it is stored in two parts, the norm over all axes but one."""
    if f"{name}.weight" in w:
        return w[f"{name}.weight"]
    g, v = w[f"{name}.weight_g"], w[f"{name}.weight_v"]
    axes = tuple(axis for axis in range(v.ndim) if axis != kept_axis)
    return g * v / np.sqrt((v**2).sum(axis=axes, keepdims=True))


def linear(w: Weights, name: str, x: Array) -> Array:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def convolve(x: Array, weight: Array, *, padding: int = 0, stride: int = 1, dilation: int = 1) -> Array:
    """(C, L) with (O, C, K) -> (O, L'), zeros at both ends."""
    outputs, inputs, size = weight.shape
    padded = np.pad(x, ((0, 0), (padding, padding)))
    length = (padded.shape[1] - dilation * (size - 1) - 1) // stride + 1
    taps = [padded[:, k * dilation : k * dilation + stride * (length - 1) + 1 : stride] for k in range(size)]
    return weight.transpose(0, 2, 1).reshape(outputs, size * inputs) @ np.concatenate(taps)


def conv(w: Weights, name: str, x: Array, **options: int) -> Array:
    y = convolve(x, weight_of(w, name), **options)
    return y + w[f"{name}.bias"][:, None] if f"{name}.bias" in w else y


def conv_same(w: Weights, name: str, x: Array, dilation: int = 1) -> Array:
    """As long as its input."""
    return conv(w, name, x, padding=(weight_of(w, name).shape[2] - 1) * dilation // 2, dilation=dilation)


def conv_transposed(w: Weights, name: str, x: Array, stride: int) -> Array:
    weight = weight_of(w, name)  # (C, O, K)
    size, length = weight.shape[2], x.shape[1]
    padding = (size - stride) // 2
    y = np.zeros((weight.shape[1], (length - 1) * stride + size))
    for k in range(size):
        y[:, k : k + (length - 1) * stride + 1 : stride] += weight[:, :, k].T @ x
    return y[:, padding : y.shape[1] - padding] + w[f"{name}.bias"][:, None]


# Features (specification 1.1, 1.3, 1.4)


def mel_spectrogram(audio: Array, filters: Array, n_fft: int, hop: int) -> Array:
    """log10 mel (T, M) of audio at the model's rate; `filters` (M, n_fft / 2 + 1) are librosa's."""
    pad = (n_fft - hop) // 2
    padded = np.pad(audio, pad, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n_fft) / n_fft)
    frames = []
    for n in range(len(audio) // hop):
        spectrum = np.fft.rfft(window * padded[n * hop : n * hop + n_fft])
        magnitude = np.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
        frames.append(np.log10(np.maximum(filters @ magnitude, 1e-5)))
    return np.array(frames)


def loudness(audio: Array, hop: int) -> Array:
    """Root mean square of `hop` samples centred on each frame's first, (T,)."""
    squares = np.pad(audio**2, (hop // 2, hop - hop // 2), mode="reflect")
    return np.sqrt([squares[n * hop : (n + 1) * hop].mean() for n in range(len(audio) // hop)])


def dio_f0(audio: Array, hop: int, rate: int) -> Array:
    """DIO, StoneMask, tenths of a hertz, resized to L // hop; 0 where a frame or its neighbour is unvoiced, (T,)."""
    import pyworld

    period_ms = 1000 * hop / rate
    rough, times = pyworld.dio(audio, fs=rate, f0_floor=50, f0_ceil=1100, frame_period=period_ms)
    found = np.array([round(float(value), 1) for value in pyworld.stonemask(audio, rough, times, rate)])
    n_frames = len(audio) // hop
    resized = np.zeros(n_frames)
    for i in range(n_frames):
        place = i * len(found) / n_frames
        low = int(place)
        high, weight = min(low + 1, len(found) - 1), place - low
        if found[low] >= 0.001 and (weight == 0.0 or found[high] >= 0.001):
            resized[i] = (1 - weight) * found[low] + weight * found[high]
    return resized


def interpolated_f0(f0: Array) -> Array:
    """Straight lines through unvoiced frames, the nearest voiced value at the ends."""
    voiced = np.flatnonzero(f0 > 0.0)
    return np.interp(np.arange(len(f0)), voiced, f0[voiced]) if len(voiced) else f0


# The acoustic model (1.5 to 1.8)


def condition(
    w: Weights, units: Array, f0: Array, volume: Array, speaker: int | None = None, shift: float | None = None
) -> Array:
    """(T, hidden); `units` (S, C) at the content encoder's rate, `f0` and `volume` (T,), shift in semitones."""
    n_frames = len(f0)
    index = [i * len(units) // n_frames for i in range(n_frames)]
    total = linear(w, "unit_embed", units)[index]
    total = total + linear(w, "f0_embed", np.log(1.0 + f0 / 700.0)[:, None])
    total = total + linear(w, "volume_embed", volume[:, None])
    if speaker is not None:
        total = total + w["spk_embed.weight"][speaker]
    if shift is not None:
        total = total + shift / 5.0 * w["aug_shift_embed.weight"][:, 0]
    return total


def wavenet(w: Weights, x: Array, c_noise: float, cond: Array, net: str = "decoder.denoise_fn") -> Array:
    """F(x (T, M); c_noise, cond (T, hidden)) -> (T, M)."""
    n_layers = sum(name.startswith(f"{net}.residual_layers.") and name.endswith("dilated_conv.bias") for name in w)
    channels = len(w[f"{net}.input_projection.bias"])
    frequencies = np.exp(-math.log(1e4) / (channels // 2 - 1) * np.arange(channels // 2))
    angles = c_noise * frequencies
    step = np.concatenate([np.sin(angles), np.cos(angles)])
    step = linear(w, f"{net}.mlp.2", mish(linear(w, f"{net}.mlp.0", step)))
    h = np.maximum(conv(w, f"{net}.input_projection", x.T), 0.0)
    skips = np.zeros_like(h)
    for i in range(n_layers):
        layer = f"{net}.residual_layers.{i}"
        y = h + linear(w, f"{layer}.diffusion_projection", step)[:, None]
        y = conv_same(w, f"{layer}.dilated_conv", y) + conv(w, f"{layer}.conditioner_projection", cond.T)
        gate, filtered = np.split(y, 2)
        y = conv(w, f"{layer}.output_projection", sigmoid(gate) * np.tanh(filtered))
        residual, skip = np.split(y, 2)
        h, skips = (h + residual) / math.sqrt(2.0), skips + skip
    y = np.maximum(conv(w, f"{net}.skip_projection", skips / math.sqrt(n_layers)), 0.0)
    return conv(w, f"{net}.output_projection", y).T


def preconditioned(w: Weights, x: Array, sigma: float, cond: Array, net: str = "decoder.denoise_fn") -> Array:
    """D(x; sigma, cond), the same in teacher and student."""
    shifted = sigma - SIGMA_MIN
    c_skip = SIGMA_DATA**2 / (shifted**2 + SIGMA_DATA**2)
    c_out = shifted * SIGMA_DATA / math.sqrt(sigma**2 + SIGMA_DATA**2)
    c_in = 1.0 / math.sqrt(sigma**2 + SIGMA_DATA**2)
    return c_skip * x + c_out * wavenet(w, c_in * x, math.log(sigma) / 4.0, cond, net)


def denormalised(x: Array) -> Array:
    return (x + 1.0) / 2.0 * (SPEC_MAX - SPEC_MIN) + SPEC_MIN


def ramp(i: float, n: float) -> float:
    """sigma_max at i = 0, sigma_min at i = n."""
    high, low = SIGMA_MAX ** (1.0 / RHO), SIGMA_MIN ** (1.0 / RHO)
    return (high + i / n * (low - high)) ** RHO


def teacher_mel(w: Weights, cond: Array, noise: Array, n_steps: int, ladder: str = "off-by-one") -> Array:
    """Euler's method; the shipped ladder divides by n where n - 1 would end at sigma_min."""
    divisor = n_steps if ladder == "off-by-one" else n_steps - 1
    sigmas = [ramp(i, divisor) if i else SIGMA_MAX for i in range(n_steps)] + [0.0]
    x = sigmas[0] * noise
    for sigma, following in pairwise(sigmas):
        x = x + (following - sigma) * (x - preconditioned(w, x, sigma, cond)) / sigma
    return denormalised(x)


def student_mel(w: Weights, cond: Array, noises: Sequence[Array], net: str = "decoder.denoise_fn") -> Array:
    """The consistency sampler: as many steps as there are `noises`."""
    n = len(noises)
    x = preconditioned(w, SIGMA_MAX * noises[0], SIGMA_MAX, cond, net)
    for i in range(1, n):
        sigma = ramp(i, n)
        x = preconditioned(w, x + math.sqrt(sigma**2 - SIGMA_MIN**2) * noises[i], sigma, cond, net)
    return denormalised(x)


# The vocoder (1.10)


@dataclass(frozen=True)
class Vocoder:
    """What `config.yaml` says of a generator."""

    upsample_rates: tuple[int, ...]
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    normalised_source: bool
    resblock: str = "1"


def sines(f0: Array, phases: Array, noise: Array, hop: int, sample_rate: int) -> Array:
    """(L, 9) from F0 (T,) held over each hop, initial phases (9,) in cycles, standard normal noise (L, 9)."""
    held = np.repeat(f0, hop)
    cycles = np.cumsum(held / sample_rate)[:, None] * np.arange(1, 10) + phases
    voiced = (held > 0.0)[:, None]
    return 0.1 * np.sin(2.0 * np.pi * cycles) * voiced + noise * np.where(voiced, 0.003, 0.1 / 3.0)


def vocode(w: Weights, shape: Vocoder, mel: Array, source: Array) -> Array:
    """Audio (L,) from a mel (T, M) and `sines` (L, 9)."""
    excitation = np.tanh(linear(w, "m_source.l_linear", source)).T
    x = conv_same(w, "conv_pre", mel.T)
    n_kernels = len(shape.resblock_kernel_sizes)
    for i, rate in enumerate(shape.upsample_rates):
        x = conv_transposed(w, f"ups.{i}", leaky_relu(x, 0.1), rate)
        stride = math.prod(shape.upsample_rates[i + 1 :])
        last = i + 1 == len(shape.upsample_rates)
        branch = conv(w, f"noise_convs.{i}", excitation, stride=stride, padding=0 if last else stride // 2)
        if shape.normalised_source:
            branch = layer_norm(np.maximum(branch, 0.0).T).T
        x = x + branch
        x = sum(_resblock(w, f"resblocks.{i * n_kernels + j}", shape, j, x) for j in range(n_kernels)) / n_kernels
    return np.tanh(conv_same(w, "conv_post", leaky_relu(x, 0.01)))[0]


def _resblock(w: Weights, name: str, shape: Vocoder, kernel: int, x: Array) -> Array:
    for k, dilation in enumerate(shape.resblock_dilation_sizes[kernel]):
        y = leaky_relu(x, 0.1)
        if shape.resblock == "1":
            y = conv_same(w, f"{name}.convs1.{k}", y, dilation)
            y = conv_same(w, f"{name}.convs2.{k}", leaky_relu(y, 0.1))
        else:
            y = conv_same(w, f"{name}.convs.{k}", y, dilation)
        x = x + y
    return x


# ContentVec (1.2), under fairseq's names


def contentvec(
    w: Weights, audio: Array, heads: int, groups: int, strides: Sequence[int] = (5, 2, 2, 2, 2, 2, 2)
) -> Array:
    """The last layer's output (S, C) for the raw waveform (N,) at 16 kHz."""
    x = audio[None]
    for i, stride in enumerate(strides):
        layer = f"feature_extractor.conv_layers.{i}"
        x = conv(w, f"{layer}.0", x, stride=stride)
        if i == 0:  # a group for each channel: every channel is normalised over the whole clip
            deviation = x - x.mean(axis=1, keepdims=True)
            x = deviation / np.sqrt((deviation**2).mean(axis=1, keepdims=True) + 1e-5)
            x = x * w[f"{layer}.2.weight"][:, None] + w[f"{layer}.2.bias"][:, None]
        x = gelu(x)
    y = linear(w, "post_extract_proj", layer_norm(x.T, w["layer_norm.weight"], w["layer_norm.bias"]))
    y = y + gelu(_position(w, y.T, groups).T)
    y = layer_norm(y, w["encoder.layer_norm.weight"], w["encoder.layer_norm.bias"])
    n_layers = sum(name.endswith(".fc1.bias") for name in w)
    for i in range(n_layers):
        y = _transformer_layer(w, f"encoder.layers.{i}", y, heads)
    return y


def _position(w: Weights, x: Array, groups: int) -> Array:
    weight = weight_of(w, "encoder.pos_conv.0", kept_axis=2)
    parts = zip(np.split(x, groups), np.split(weight, groups), strict=True)
    y = np.concatenate([convolve(part, kernel, padding=weight.shape[2] // 2) for part, kernel in parts])
    y = y + w["encoder.pos_conv.0.bias"][:, None]
    return y[:, :-1] if weight.shape[2] % 2 == 0 else y


def _transformer_layer(w: Weights, name: str, x: Array, heads: int) -> Array:
    q, k, v = (linear(w, f"{name}.self_attn.{part}_proj", x) for part in "qkv")
    size = q.shape[1] // heads
    mixed = []
    for head in range(heads):
        columns = slice(head * size, (head + 1) * size)
        scores = q[:, columns] @ k[:, columns].T / math.sqrt(size)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        mixed.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, columns])
    x = x + linear(w, f"{name}.self_attn.out_proj", np.concatenate(mixed, axis=1))
    x = layer_norm(x, w[f"{name}.self_attn_layer_norm.weight"], w[f"{name}.self_attn_layer_norm.bias"])
    x = x + linear(w, f"{name}.fc2", gelu(linear(w, f"{name}.fc1", x)))
    return layer_norm(x, w[f"{name}.final_layer_norm.weight"], w[f"{name}.final_layer_norm.bias"])


# Our modules' weights under those names


def named(state: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, Array]:
    """A torch state dict as `Weights`."""
    return {rename(name): tensor.detach().numpy().astype(np.float64) for name, tensor in state.items()}
