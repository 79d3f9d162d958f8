"""Networks: shapes of any rows and images, pixels in their places, and sizes that can't be."""

import pytest
import torch
from torch.nn.functional import conv2d

from pyro_lvm.errors import PairError
from pyro_lvm.networks import ACTIVATIONS, decoder_network, encoder_network, initialize

SHAPES = [(8, 12), (3, 8, 4), (4, 8, 3), (1, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_any_image_goes_in_and_comes_out(shape: tuple[int, ...], activation: str) -> None:
    data_dim = int(torch.tensor(shape).prod())
    options = {"hidden": [7], "activation": activation, "channels": [5, 6], "image_shape": list(shape)}
    encoder = encoder_network(data_dim, 4, planes=2, **options)
    decoder = decoder_network(3, data_dim, planes=2, **options)
    assert encoder(torch.randn(6, 2 * data_dim)).shape == (6, 4)
    # Particles are further dimensions on the left.
    z = torch.randn(2, 6, 3)
    assert decoder(z).shape == (2, 6, 2 * data_dim)
    torch.testing.assert_close(decoder(z)[1, 4], decoder(z[1, 4:5])[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_convolutions_see_neighbouring_pixels(shape: tuple[int, ...]) -> None:
    # Wrong: an image with its channels last would be cut up into stripes, and train worse without a word.
    data_dim = int(torch.tensor(shape).prod())
    encoder = encoder_network(data_dim, 4, hidden=[], activation="tanh", channels=[5], image_shape=shape)
    x = torch.randn(6, data_dim)
    images = x.reshape(6, *shape)
    images = images[:, None] if len(shape) == 2 else images.permute(0, 3, 1, 2) if shape[2] == 3 else images
    weights = dict(encoder.named_parameters())
    first = [weights[f"convolutions.0.{name}"] for name in ("weight", "bias")]
    expected = torch.tanh(conv2d(images, *first, stride=2, padding=1)).flatten(1)
    expected = expected @ weights["dense.0.weight"].T + weights["dense.0.bias"]
    torch.testing.assert_close(encoder(x), expected)


def test_decoded_pixels_stand_where_encoded_ones_are_read() -> None:
    # A decoder whose only output is one pixel's bias, channel by channel: folding is the inverse of unfolding.
    for shape in SHAPES:
        data_dim = int(torch.tensor(shape).prod())
        options = {"hidden": [], "activation": "tanh", "channels": [2], "image_shape": shape}
        encoder = encoder_network(data_dim, 1, planes=2, **options)
        decoder = decoder_network(1, data_dim, planes=2, **options)
        rows = torch.arange(3.0 * 2 * data_dim).reshape(3, 2 * data_dim)
        assert torch.equal(decoder.image.fold(encoder.image.unfold(rows)), rows)


def test_without_hidden_layers_it_is_linear() -> None:
    network = encoder_network(5, 3, hidden=[], activation="tanh")
    a, b = torch.randn(2, 4, 5).unbind(0)
    zero = network(torch.zeros(1, 5))
    torch.testing.assert_close(network(a + b) + zero, network(a) + network(b))


def test_weights_come_from_the_generator_and_keep_their_size() -> None:
    # Wrong: two fits of one seed would differ.
    network = decoder_network(50, 784, hidden=[200], activation="tanh")
    initialize(network, torch.Generator().manual_seed(3))
    first = [p.detach().clone() for p in network.parameters()]
    initialize(network, torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(first, network.parameters(), strict=True))
    # Glorot: variance 2 / (fan in + fan out), here over 156,800 weights.
    assert float(first[2].detach().var()) == pytest.approx(2 / (200 + 784), rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"channels": [4, 4], "image_shape": (6, 6)},
            "2 convolutions can't halve images of 6 x 6 so .* at most 1",
        ),
        ({"channels": [4], "image_shape": (7, 6)}, "at most 0 channels"),
        ({"channels": [4], "image_shape": (5, 7)}, r"image_shape=\(5, 7\) for rows of 36 numbers"),
        ({"channels": [4]}, "channels were given for rows that are no images"),
        ({"hidden": [0]}, r"hidden=\[0\]: expected a list of whole numbers from 1 up"),
        ({"hidden": 200}, "hidden=200: expected a list"),
        ({"activation": "gelu"}, "activation='gelu': expected one of tanh, relu"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(options: dict[str, object], message: str) -> None:
    data_dim = 42 if options.get("image_shape") == (7, 6) else 36
    given = {"hidden": [4], "activation": "tanh"} | options
    with pytest.raises(PairError, match=message) as encoding:
        encoder_network(data_dim, 2, **given)  # type: ignore[arg-type]
    assert "\n" not in str(encoding.value)
    with pytest.raises(PairError, match=message):
        decoder_network(2, data_dim, **given)  # type: ignore[arg-type]
