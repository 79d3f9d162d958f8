"""Figures of a pair: which files are written, that they are pictures, and that what they hold is turned rightly."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from pyro_lvm import figures, linear_gaussian
from pyro_lvm.errors import ArtifactError, DataError
from pyro_lvm.figures import principal_axes, save_figures
from pyro_lvm.grading import Grade
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.history import History
from pyro_lvm.models import PPCA
from pyro_lvm.pair import Pair

ALL = {"elbo", "latent_map", "loadings", "reconstructions"}
GRADE = Grade(num_rows=60, elbo=-10.0, elbo_standard_error=0.1, log_evidence_ml=-9.9)


@pytest.fixture
def history():
    history = History()
    for i in range(30):
        history.add(step=10 * (i + 1), epoch=i, lr=0.1, elbo=-10.0 - 500 * 0.5**i)
    return history


@pytest.fixture
def unsaved(monkeypatch):
    """For tests of what is drawn: rendering to a file is most of the time."""
    monkeypatch.setattr(figures.Figure, "savefig", lambda *_, **__: None)


def rows_of(data_dim, num_rows=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(num_rows, 3, generator=generator)
    effects = torch.randn(3, data_dim, generator=generator)
    return causes @ effects + 0.3 * torch.randn(num_rows, data_dim, generator=generator)


def ppca_pair(x, latent_dim):
    """A pair at the maximum of the likelihood, with a guide that tells rows apart."""
    model = PPCA(x.shape[1], latent_dim).maximum_likelihood(torch.nan_to_num(x)).float()
    guide = LinearGaussian(x.shape[1], latent_dim)
    guide.start(torch.nan_to_num(x))
    with torch.no_grad():
        guide.relative_slope.copy_(torch.randn(guide.relative_slope.shape, generator=torch.Generator().manual_seed(1)))
    return Pair(model, guide)


def names_of(paths):
    return {path.stem for path in paths}


def check_picture(path):
    """A PNG of a size that fits a page, with something on it and nothing at its very edge."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    picture = matplotlib.image.imread(path)[..., :3]
    height, width = picture.shape[:2]
    assert 200 < height < 2200
    assert 400 < width < 2200
    assert picture.std() > 0.01
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert (border == 1).all()


@pytest.mark.parametrize(
    ("data_dim", "latent_dim", "options"),
    [
        (16, 4, {"image_shape": (4, 4), "labels": torch.arange(60) % 10, "label_names": list("0123456789")}),
        (12, 1, {"image_shape": (3, 2, 2)}),
        (6, 2, {"labels": np.arange(60) % 3, "feature_names": [f"feature {i}" for i in range(6)]}),
        (50, 30, {"labels": np.linspace(0, 1, 60)}),
        (2, 1, {"labels": ["oak", "elm", None] * 20}),
    ],
)
def test_all_pictures_of_a_linear_pair_are_written(tmp_path, history, data_dim, latent_dim, options):
    """Each combination of images or table, labels and number of latents takes other paths to a picture."""
    x = rows_of(data_dim)
    opened = plt.get_fignums()
    written = save_figures(tmp_path / "new" / "figures", ppca_pair(x, latent_dim), x, history, GRADE, **options)
    assert names_of(written) == ALL
    assert all(path.parent == tmp_path / "new" / "figures" for path in written)
    for path in written:
        check_picture(path)
    assert plt.get_fignums() == opened


def test_a_pair_of_functions_has_its_training_drawn_and_nothing_else(tmp_path, history):
    """What a pair doesn't offer must not be an error after a long training."""
    pair = Pair(lambda x: None, lambda x: None)
    assert names_of(save_figures(tmp_path, pair, rows_of(4), history, None)) == {"elbo"}


@pytest.mark.usefixtures("unsaved")
def test_an_empty_history_leaves_the_training_out(tmp_path):
    """A pair that was loaded or set by hand was never trained."""
    x = rows_of(4)
    assert names_of(save_figures(tmp_path, ppca_pair(x, 2), x, History(), GRADE)) == ALL - {"elbo"}


@pytest.mark.usefixtures("unsaved")
def test_a_grade_without_an_optimum_draws_the_training_without_one(tmp_path, history):
    """Most models don't know their maximum of the likelihood."""
    grade = Grade(num_rows=60, elbo=-10.0, elbo_standard_error=0.1)
    assert names_of(save_figures(tmp_path, Pair(lambda x: None, lambda x: None), rows_of(4), history, grade)) == {
        "elbo"
    }


class Encoder(nn.Module):
    """A nonlinear guide whose batch norm would change if it were run in training mode."""

    def __init__(self, data_dim, latent_dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(data_dim, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, latent_dim))

    def forward(self, x):
        return self.encode(x)

    def encode(self, x):
        return Independent(Normal(self.net(x), 1.0), 1)


class Decoder(nn.Module):
    def __init__(self, data_dim, latent_dim):
        super().__init__()
        self.net = nn.Linear(latent_dim, data_dim)

    def forward(self, x):
        return x

    def decode(self, z):
        return Normal(self.net(z), 1.0)


@pytest.mark.usefixtures("unsaved")
def test_a_nonlinear_pair_has_no_loadings(tmp_path, history):
    """The engine takes what a pair offers, not the zoo's classes."""
    pair = Pair(Decoder(16, 3), Encoder(16, 3))
    written = save_figures(tmp_path, pair, rows_of(16), history, GRADE, image_shape=(4, 4))
    assert names_of(written) == ALL - {"loadings"}


@pytest.mark.usefixtures("unsaved")
def test_drawing_changes_nothing_in_the_pair(tmp_path, history):
    """A picture that moves the statistics of a batch norm changes what was trained and graded."""
    pair = Pair(Decoder(6, 2), Encoder(6, 2))
    before = {name: tensor.clone() for name, tensor in pair.state_dict().items()}
    save_figures(tmp_path, pair, rows_of(6), history, GRADE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in pair.state_dict().items())
    assert pair.guide.net[1].training


@pytest.mark.usefixtures("unsaved")
def test_a_guide_whose_posterior_has_no_mean_is_left_out(tmp_path, history):
    """A discrete latent has no place on a map."""

    class Chooser(nn.Module):
        def forward(self, x):
            return None

        def encode(self, x):
            return Categorical(logits=torch.zeros(len(x), 4))

    assert names_of(save_figures(tmp_path, Pair(Decoder(6, 2), Chooser()), rows_of(6), history)) == {"elbo"}


@pytest.mark.usefixtures("unsaved")
def test_rows_with_holes_are_drawn_only_if_the_guide_takes_them(tmp_path, history, monkeypatch):
    """A guide that can't take a hole answers NaN, and a picture of nothing but NaN is an error."""
    x = rows_of(6)
    pair = ppca_pair(x, 2)
    x[::2, 0] = float("nan")
    drawn = []
    monkeypatch.setattr(figures.plots, "latent_map", lambda z, labels, **rest: drawn.append((z, labels)) or rest["ax"])
    save_figures(tmp_path, pair, x, history, labels=torch.arange(60))
    ((z, labels),) = drawn
    assert len(z) == 30
    np.testing.assert_array_equal(labels, np.arange(1, 60, 2))
    x[:, 0] = float("nan")
    assert names_of(save_figures(tmp_path, pair, x, history)) == {"elbo", "loadings"}


@pytest.mark.usefixtures("unsaved")
def test_many_rows_are_thinned_with_their_labels(tmp_path, history, monkeypatch):
    """Labels of the first rows for a random choice of rows would be a map of noise."""
    monkeypatch.setattr(figures, "_MAX_ROWS", 20)
    x = rows_of(6)
    pair = ppca_pair(x, 2)
    drawn = []
    monkeypatch.setattr(figures.plots, "latent_map", lambda z, labels, **rest: drawn.append((z, labels)) or rest["ax"])
    save_figures(tmp_path, pair, x, history, labels=torch.arange(60))
    ((z, labels),) = drawn
    assert len(z) == len(set(labels.tolist())) == 20
    _, rotation, _ = principal_axes(pair.model.loadings)
    torch.testing.assert_close(z, pair.guide.encode(x[labels]).mean.detach().double() @ rotation)


@pytest.mark.usefixtures("unsaved")
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_map_and_loadings_are_turned_alike(tmp_path, history, monkeypatch, latent_dim):
    """A row far to the right of the map must have more of what the first loading shows, not less."""
    x = rows_of(6)
    pair = ppca_pair(x, latent_dim)
    with torch.no_grad():
        pair.model.relative_loadings.neg_()
    drawn = {}
    monkeypatch.setattr(figures.plots, "latent_map", lambda z, *_, **rest: drawn.update(z=z) or rest["ax"])
    monkeypatch.setattr(figures.plots, "loadings_images", lambda turned, *_, **__: drawn.update(turned=turned))
    save_figures(tmp_path, pair, x, history, image_shape=(2, 3))
    means = pair.guide.encode(x).mean.double() @ pair.model.loadings.double().T
    torch.testing.assert_close(drawn["z"] @ drawn["turned"].T, means.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("unsaved")
def test_one_image_of_each_class_is_shown(tmp_path, history, monkeypatch):
    """Ten random digits are seldom ten different ones."""
    x = rows_of(16)
    shown = []
    monkeypatch.setattr(figures.plots, "reconstructions", lambda x, x_hat, *rest, **options: shown.append((x, x_hat)))
    labels = torch.arange(60) % 10
    pair = ppca_pair(x, 2)
    save_figures(tmp_path, pair, x, history, labels=labels, image_shape=(4, 4))
    ((originals, rebuilt),) = shown
    found = [int((x == original).all(1).nonzero()) for original in originals]
    assert labels[found].tolist() == list(range(10))
    torch.testing.assert_close(rebuilt, pair.model.decode(pair.guide.encode(originals).mean).mean.detach())


@pytest.mark.usefixtures("unsaved")
def test_a_table_s_heatmap_holds_correlations_with_the_latents(tmp_path, history, monkeypatch):
    """Loadings in each feature's own unit would show the feature with the largest numbers and nothing else."""
    x = rows_of(5, num_rows=400) * torch.tensor([1.0, 1.0, 100.0, 1.0, 1.0])
    pair = ppca_pair(x, 2)
    drawn = []
    monkeypatch.setattr(figures.plots, "loadings_heatmap", lambda entries, *rest, **options: drawn.append(entries))
    save_figures(tmp_path, pair, x, history)
    generator = torch.Generator().manual_seed(0)
    model = pair.model
    z = torch.randn(200_000, 2, generator=generator)
    draws = z @ model.loadings.T + model.noise_scale * torch.randn(200_000, 5, generator=generator)
    _, rotation, _ = principal_axes(model.loadings)
    joint = np.corrcoef(np.concatenate([draws.detach().numpy(), z.double().numpy() @ rotation.numpy()], axis=1).T)
    # A correlation of 200,000 draws has a standard error of at most 0.0022.
    np.testing.assert_allclose(drawn[0].numpy(), joint[:5, 5:], atol=0.01)


def test_principal_axes_undo_any_rotation():
    """The picture must not depend on the rotation that training happened to end in."""
    best = linear_gaussian.maximum_likelihood(rows_of(12, num_rows=300), 3)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    turned, rotation, shares = principal_axes(best.loadings @ turn)
    # The closed form's columns are already principal, its largest entries positive.
    torch.testing.assert_close(turned, best.loadings)
    torch.testing.assert_close(best.loadings @ turn @ rotation, turned)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
    explained = best.eigenvalues[:3] - best.noise_variance
    torch.testing.assert_close(shares, explained / explained.sum())


@pytest.mark.parametrize("loadings", [torch.zeros(4, 2), torch.ones(4, 2), torch.ones(2, 3)])
def test_principal_axes_of_degenerate_loadings_are_finite(loadings):
    """Collapsed or redundant latents have no direction of their own."""
    for answer in principal_axes(loadings):
        assert bool(answer.isfinite().all())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"labels": torch.zeros(59, dtype=torch.long)}, "59 labels"),
        ({"feature_names": ["a", "b"]}, "2 feature names"),
        ({"image_shape": (3, 3)}, "9 pixels"),
        ({"image_shape": (16,)}, r"expected \(H, W\)"),
        ({"labels": torch.arange(60), "label_names": ["a"]}, "label_names has 1"),
    ],
)
def test_what_does_not_fit_the_rows_is_said_before_anything_is_written(tmp_path, history, options, says):
    """A typing error is no figure that doesn't apply."""
    x = rows_of(16)
    with pytest.raises(DataError, match=says) as caught:
        save_figures(tmp_path / "out", ppca_pair(x, 2), x, history, GRADE, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path, history):
    """A traceback from matplotlib would not say what to do."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(ArtifactError, match="taken"):
        save_figures(tmp_path / "taken", Pair(lambda x: None, lambda x: None), rows_of(4), history)
