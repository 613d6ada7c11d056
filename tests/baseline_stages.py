"""Every networked stage of the baselines, small."""

from dataclasses import replace

from comosvc.benchmarks.baselines import comosvc, diffsvc, parts, sovits
from comosvc.benchmarks.baselines.sampler import ddpm, dpm_solver_pp, edm_euler, linear_betas, pndm
from comosvc.benchmarks.baselines.sovits_networks import SovitsConfig
from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.training.acoustic.diffusion import SigmaConfig
from comosvc.training.content.encoders import ContentVecConfig
from comosvc.training.vocoder.hifigan import M4SINGER_24K

SPEC = replace(COMOSVC_24K, sample_rate=2_000, hop_length=16)
SIZE = parts.NetworkSize(layers=2, channels=16, hidden=12, n_mels=8)
CONTENT = ContentVecConfig(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    conv_dim=(8,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
)
SOVITS = SovitsConfig(
    inter_channels=12,
    hidden_channels=12,
    filter_channels=24,
    n_layers=1,
    n_flow_layer=2,
    gin_channels=10,
    ssl_dim=14,
    n_speakers=3,
)
HIFIGAN = replace(
    M4SINGER_24K, n_mels=8, upsample_rates=(4, 4), upsample_kernel_sizes=(8, 8), upsample_initial_channel=16
)
PLAIN = replace(HIFIGAN, normalised_source=False)

STAGES = {
    "content": parts.content_stage(CONTENT),
    "soft units": diffsvc.content_stage(CONTENT, 10),
    "condition": parts.condition_stage(14, SIZE.hidden, 3, SPEC),
    "condition of one singer": parts.condition_stage(14, SIZE.hidden, 1, SPEC),
    "units and pitch": diffsvc.condition_stage(SIZE.hidden, SPEC),
    "student": comosvc.student_stage(SIZE, SPEC, n_content=14, n_singers=3),
    "teacher": parts.sampler_stage(edm_euler(6, SigmaConfig()), SIZE, SPEC),
    "dpm": parts.sampler_stage(dpm_solver_pp(linear_betas(), 6), SIZE, SPEC),
    "pndm": parts.sampler_stage(pndm(linear_betas(), 200), replace(SIZE, dilation_cycle=2), SPEC),
    "ddpm": parts.sampler_stage(ddpm(linear_betas(6)), SIZE, SPEC),
    "latent": sovits.latent_stage(SOVITS, SPEC),
    "decoder": sovits.decoder_stage(SOVITS, replace(PLAIN, n_mels=SOVITS.inter_channels), SPEC),
    "vocoder": parts.vocoder_stage(HIFIGAN, SPEC),
    "plain vocoder": parts.vocoder_stage(PLAIN, SPEC),
}
