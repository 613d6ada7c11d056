"""Teacher and student steps with the arithmetic of the CoMoSVC authors: every projection by itself, eager, in float32.

Written from the published description for comparison: one convolution per layer for the condition and one matrix for
the step, the skips stacked and summed, items cut and collated one by one in the process that trains. No weights are
meant to be loaded into this.
"""

import math
from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ...training.acoustic.dataset import ClipFeatures
from ...training.acoustic.diffusion import SigmaConfig, edm_scalings, euler_step, karras_sigmas, loss_weight

_MEL_RANGE = (-6.0, 1.5)


class Layer(nn.Module):
    """A residual layer with its own projections of step and condition."""

    def __init__(self, channels: int, hidden: int, dilation: int) -> None:
        super().__init__()
        self.dilated_conv = nn.Conv1d(channels, 2 * channels, 3, padding=dilation, dilation=dilation)
        self.diffusion_projection = nn.Linear(channels, channels)
        self.conditioner_projection = nn.Conv1d(hidden, 2 * channels, 1)
        self.output_projection = nn.Conv1d(channels, 2 * channels, 1)

    def forward(self, x: Tensor, condition: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        y = self.dilated_conv(x + self.diffusion_projection(step)[..., None]) + self.conditioner_projection(condition)
        gate, filtered = y.chunk(2, dim=1)
        residual, skip = self.output_projection(torch.sigmoid(gate) * torch.tanh(filtered)).chunk(2, dim=1)
        return (x + residual) / math.sqrt(2.0), skip


class Network(nn.Module):
    """F(x (B, T, M), c_noise (B,), condition (B, T, hidden)) -> (B, T, M).

    so-vits-svc and diff-svc have it too, in other sizes; in the latter the dilation doubles from layer to layer and
    starts again after `dilation_cycle` of them. Parameters carry the names that all three give them.
    """

    def __init__(self, layers: int, channels: int, hidden: int, n_mels: int, dilation_cycle: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.input_projection = nn.Conv1d(n_mels, channels, 1)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.Mish(), nn.Linear(4 * channels, channels))
        dilations = [2 ** (n % dilation_cycle) for n in range(layers)]
        self.residual_layers = nn.ModuleList(Layer(channels, hidden, dilation) for dilation in dilations)
        self.skip_projection = nn.Conv1d(channels, channels, 1)
        self.output_projection = nn.Conv1d(channels, n_mels, 1)
        nn.init.zeros_(self.output_projection.weight)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        half = self.channels // 2
        angles = c_noise[:, None] * torch.exp(-math.log(1e4) / (half - 1) * torch.arange(half, device=x.device))
        step = self.mlp(torch.cat((angles.sin(), angles.cos()), dim=-1))
        condition = condition.transpose(1, 2)
        h, skips = torch.relu(self.input_projection(x.transpose(1, 2))), []
        for layer in self.residual_layers:
            h, skip = layer(h, condition, step)
            skips.append(skip)
        h = torch.stack(skips).sum(dim=0) / math.sqrt(len(self.residual_layers))
        return self.output_projection(torch.relu(self.skip_projection(h))).transpose(1, 2)


class Embeddings(nn.Module):
    """Embeddings of the condition, and their sum. One singer needs none, and has none."""

    def __init__(self, n_content: int, hidden: int, n_singers: int) -> None:
        super().__init__()
        self.unit_embed = nn.Linear(n_content, hidden)
        self.f0_embed, self.volume_embed = nn.Linear(1, hidden), nn.Linear(1, hidden)
        self.spk_embed = nn.Embedding(n_singers, hidden) if n_singers > 1 else None

    def condition(self, batch: dict[str, Tensor]) -> Tensor:
        total = self.unit_embed(batch["content"]) + self.f0_embed(torch.log(1 + batch["f0_hz"] / 700)[..., None])
        total = total + self.volume_embed(batch["loudness"][..., None])
        return total if self.spk_embed is None else total + self.spk_embed(batch["singer"])[:, None]


class AuthorsModel(Embeddings):
    """The embeddings, and the network with its preconditioning."""

    def __init__(self, network: Network, n_content: int, hidden: int, n_singers: int) -> None:
        super().__init__(n_content, hidden, n_singers)
        self.network, self.sigma = network, SigmaConfig()

    def denoise(self, x: Tensor, sigma: Tensor, condition: Tensor, network: nn.Module) -> Tensor:
        c_skip, c_out, c_in, c_noise = (c.view(-1, 1, 1) for c in edm_scalings(sigma, self.sigma))
        return c_skip * x + c_out * network(c_in * x, c_noise.view(-1), condition)


class Items(Dataset):
    """Clips in memory; an item is a random crop of one of them."""

    def __init__(self, clips: list[ClipFeatures], crop_frames: int) -> None:
        self.clips, self.crop_frames = clips, crop_frames

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        clip = self.clips[number]
        start = int(torch.randint(len(clip.mel) - self.crop_frames + 1, ()))
        frames = slice(start, start + self.crop_frames)
        arrays = {"mel": clip.mel, "content": clip.contents[0], "f0_hz": clip.f0_hz, "loudness": clip.loudness}
        item = {name: torch.from_numpy(array[frames]).float() for name, array in arrays.items()}
        return {**item, "singer": torch.tensor(clip.singer)}


class AuthorsTraining:
    """Steps of the teacher, or of the student (`student` True), on batches of `clips`."""

    def __init__(self, model: AuthorsModel, items: Items, batch_size: int, *, student: bool) -> None:
        self.model, self.student = model, student
        self.batches: Iterator[dict[str, Tensor]] = self._endless(DataLoader(items, batch_size, shuffle=True))
        self.target, self.teacher = deepcopy(model.network), deepcopy(model.network).requires_grad_(False)
        trained = model.network if student else model
        self.optimizer = torch.optim.AdamW(trained.parameters(), lr=5e-5 if student else 1e-4, weight_decay=0.0)
        self.ladder = karras_sigmas(25, model.sigma).flip(0)

    @staticmethod
    def _endless(loader: DataLoader) -> Iterator[dict[str, Tensor]]:
        while True:
            yield from loader

    def step(self) -> float:
        """One step of the optimiser; the loss."""
        batch = next(self.batches)
        low, high = _MEL_RANGE
        y = (batch["mel"] - low) / (high - low) * 2 - 1
        loss = self._student_loss(y, batch) if self.student else self._teacher_loss(y, batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _teacher_loss(self, y: Tensor, batch: dict[str, Tensor]) -> Tensor:
        config = self.model.sigma
        sigma = (config.P_mean + config.P_std * torch.randn(len(y))).exp()
        x = y + sigma.view(-1, 1, 1) * torch.randn_like(y)
        D = self.model.denoise(x, sigma, self.model.condition(batch), self.model.network)
        return (loss_weight(sigma, config).view(-1, 1, 1) * (D - y) ** 2).mean()

    def _student_loss(self, y: Tensor, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            for target, source in zip(self.target.parameters(), self.model.network.parameters(), strict=True):
                target.mul_(0.95).add_(source, alpha=0.05)
            condition = self.model.condition(batch)
        n = torch.randint(len(self.ladder) - 1, (len(y),))
        t_n, t_next = self.ladder[n], self.ladder[n + 1]
        x_next = y + t_next.view(-1, 1, 1) * torch.randn_like(y)
        with torch.no_grad():
            x_n = euler_step(x_next, t_next, t_n, self.model.denoise(x_next, t_next, condition, self.teacher))
            target = self.model.denoise(x_n, t_n, condition, self.target)
        predicted = self.model.denoise(x_next, t_next, condition, self.model.network)
        return 1000.0 * ((predicted - target) ** 2).mean()
