"""Networks of encoders and decoders: fully connected, and convolutional in front of that, for rows of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_lvm.errors import PairError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}
"""Names of the activations between layers."""

# A kernel of four with stride two and padding one halves an even edge exactly, and its transpose doubles it.
_KERNEL, _STRIDE, _PADDING = 4, 2, 1


def encoder_network(
    data_dim: int,
    num_outputs: int,
    *,
    planes: int = 1,
    hidden: Sequence[int],
    activation: str,
    channels: Sequence[int] = (),
    image_shape: Sequence[int] | None = None,
) -> nn.Module:
    """A network from rows to numbers, shape (..., planes * data_dim) to (..., num_outputs).

    Args:
        data_dim: Number of features D of a row.
        num_outputs: Numbers that it gives.
        planes: How many times D numbers go in, one after the other: the row, and what else is known of each entry.
        hidden: Sizes of the hidden layers; none makes the network linear.
        activation: One of :data:`ACTIVATIONS`, after each hidden layer.
        channels: Of convolutions in front, each of which halves the image; none for rows that are no images.
        image_shape: (H, W), (C, H, W) or (H, W, C); for convolutions alone.

    Raises:
        PairError: A size or an activation that can't be, or an image that can't be halved so many times.
    """
    hidden, channels = _sizes("hidden", hidden), _sizes("channels", channels)
    if not channels:
        return _mlp([planes * data_dim, *hidden, num_outputs], activation)
    image = _Image(data_dim, image_shape, len(channels))
    layers: list[nn.Module] = []
    widths = [planes * image.depth, *channels]
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, _KERNEL, _STRIDE, _PADDING), _activation(activation)]
    dense = _mlp([channels[-1] * image.smallest[0] * image.smallest[1], *hidden, num_outputs], activation)
    return _ConvolutionalEncoder(image, nn.Sequential(*layers), dense)


def decoder_network(
    latent_dim: int,
    data_dim: int,
    *,
    planes: int = 1,
    hidden: Sequence[int],
    activation: str,
    channels: Sequence[int] = (),
    image_shape: Sequence[int] | None = None,
) -> nn.Module:
    """A network from latent coordinates to rows, shape (..., latent_dim) to (..., planes * data_dim).

    It mirrors the encoder of the same ``hidden`` and ``channels``.

    Args:
        latent_dim: Number of latent coordinates d.
        data_dim: Number of features D of a row.
        planes: How many times D numbers come out, one after the other.
        hidden, activation, channels, image_shape: As for :func:`encoder_network`.

    Raises:
        PairError: As for :func:`encoder_network`.
    """
    hidden, channels = _sizes("hidden", hidden)[::-1], _sizes("channels", channels)[::-1]
    if not channels:
        return _mlp([latent_dim, *hidden, planes * data_dim], activation)
    image = _Image(data_dim, image_shape, len(channels))
    dense = _mlp([latent_dim, *hidden, channels[0] * image.smallest[0] * image.smallest[1]], activation)
    layers: list[nn.Module] = []
    widths = [*channels, planes * image.depth]
    for before, after in pairwise(widths):
        layers += [_activation(activation), nn.ConvTranspose2d(before, after, _KERNEL, _STRIDE, _PADDING)]
    return _ConvolutionalDecoder(image, dense, nn.Sequential(*layers))


@torch.no_grad()
def initialize(network: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw weights anew, uniform in the range of Glorot and Bengio (2010); biases are zero.

    Args:
        network: A network of this module.
        generator: Source of the weights.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def _mlp(sizes: Sequence[int], activation: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), _activation(activation)]
    network = nn.Sequential(*layers[:-1])
    initialize(network)
    return network


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise PairError(f"activation={name!r}: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def _sizes(name: str, given: Sequence[int]) -> list[int]:
    sizes = list(given) if isinstance(given, (list, tuple)) else None
    if sizes is None or any(not isinstance(s, int) or isinstance(s, bool) or s < 1 for s in sizes):
        raise PairError(f"{name}={given!r}: expected a list of whole numbers from 1 up, as in {name}=[200,200], or []")
    return sizes


class _Image:
    """An image's shape, and the way from a row to channels of it and back.

    Args:
        data_dim: Numbers of a row.
        shape: (H, W), (C, H, W) or (H, W, C).
        halvings: How many times height and width are to be halved.
    """

    def __init__(self, data_dim: int, shape: Sequence[int] | None, halvings: int) -> None:
        if shape is None:
            raise PairError(
                "channels were given for rows that are no images: leave channels out, or use data with an image_shape"
            )
        shape = tuple(shape)
        if len(shape) not in (2, 3) or math.prod(shape) != data_dim:
            raise PairError(
                f"image_shape={shape} for rows of {data_dim} numbers: expected (H, W), (C, H, W) or (H, W, C) with "
                "that product"
            )
        self.channels_last = len(shape) == 3 and shape[2] in (1, 3) and shape[0] not in (1, 3)
        self.depth, self.height, self.width = (
            (1, *shape) if len(shape) == 2 else (shape[2], *shape[:2]) if self.channels_last else shape
        )
        factor = 2**halvings
        if self.height % factor or self.width % factor:
            most = min(_halvings(self.height), _halvings(self.width))
            raise PairError(
                f"{halvings} convolutions can't halve images of {self.height} x {self.width} so many times: expected "
                f"edges that {factor} divides; give at most {most} channels, or pad the images"
            )
        self.smallest = self.height // factor, self.width // factor

    def unfold(self, rows: Tensor) -> Tensor:
        """From (rows, planes * D) to (rows, planes * C, H, W)."""
        if not self.channels_last:
            return rows.reshape(len(rows), -1, self.height, self.width)
        images = rows.reshape(len(rows), -1, self.height, self.width, self.depth)
        return images.movedim(-1, 2).flatten(1, 2)

    def fold(self, images: Tensor) -> Tensor:
        """From (rows, planes * C, H, W) to (rows, planes * D)."""
        if not self.channels_last:
            return images.flatten(1)
        by_plane: Tensor = images.unflatten(1, (-1, self.depth))
        return by_plane.movedim(2, -1).flatten(1)


def _halvings(edge: int) -> int:
    return (edge & -edge).bit_length() - 1


class _ConvolutionalEncoder(nn.Module):
    def __init__(self, image: _Image, convolutions: nn.Sequential, dense: nn.Sequential) -> None:
        super().__init__()
        self.image, self.convolutions, self.dense = image, convolutions, dense
        initialize(convolutions)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        outputs: Tensor = self.dense(self.convolutions(self.image.unfold(rows)).flatten(1))
        return outputs.reshape(*x.shape[:-1], -1)


class _ConvolutionalDecoder(nn.Module):
    def __init__(self, image: _Image, dense: nn.Sequential, convolutions: nn.Sequential) -> None:
        super().__init__()
        self.image, self.dense, self.convolutions = image, dense, convolutions
        initialize(convolutions)

    def forward(self, z: Tensor) -> Tensor:
        small = self.dense(z.reshape(-1, z.shape[-1])).unflatten(1, (-1, *self.image.smallest))
        rows: Tensor = self.convolutions(small)
        return self.image.fold(rows).reshape(*z.shape[:-1], -1)
