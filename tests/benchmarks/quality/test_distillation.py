import torch

from comosvc.benchmarks.held_out import rotated_pairs
from comosvc.benchmarks.quality.distillation import ode_distance
from comosvc.training.acoustic.diffusion import SigmaConfig, consistency_sample, euler_sample, karras_sigmas

SIGMA = SigmaConfig()


def ideal_denoiser(x, sigma):
    """E[y | y + sigma z] of data ~ N(0, sigma_data^2): the analytic teacher."""
    return x * (SIGMA.sigma_data**2 / (SIGMA.sigma_data**2 + sigma**2)).view(-1, 1, 1)


def ideal_student(x, sigma):
    """Where that teacher's ODE ends, in closed form."""
    data, low = SIGMA.sigma_data**2, SIGMA.sigma_min**2
    return x * ((data + low) / (data + sigma**2)).sqrt().view(-1, 1, 1)


def test_an_ideal_student_is_told_from_the_undistilled_network():
    noises = torch.randn(2, 1, 200, 8, generator=torch.Generator().manual_seed(0))
    own, published = karras_sigmas(16, SIGMA), karras_sigmas(25, SIGMA)
    starts = ((noises[0], own), (noises[1], own), (noises[0], published))
    ends = [euler_sample(ideal_denoiser, z, ladder) for z, ladder in starts]
    undistilled = consistency_sample(ideal_denoiser, [noises[0]], SIGMA)
    student = consistency_sample(ideal_student, [noises[0]], SIGMA)
    distance = ode_distance(student, undistilled, ends)
    assert distance.student < 0.35 * distance.undistilled
    assert distance.student < 0.35 * distance.student_other_noise
    assert distance.student_published_ladder < distance.student  # closed form: nearer to the finer solution
    none = ode_distance(undistilled, undistilled, ends)
    assert none.student == none.undistilled


def test_rotated_pairs_use_every_source_target_and_song(songs):
    chosen = rotated_pairs([songs[0], songs[0]])
    assert {(pair.source, pair.target) for pair in chosen} == {
        (source, target) for source in songs[0].sources for target in songs[0].targets
    }
    assert len(chosen) == 4
