"""Which rows a start sees."""

import math

import torch

from pyro_lvm.em.starts import start_rows


def test_every_feature_is_seen():
    """Else a feature that is observed in few rows has no mean at the start."""
    x = torch.randn(30_000, 6, generator=torch.Generator().manual_seed(0))
    x[1:, 2] = math.nan
    x[:-1, 4] = math.nan
    for seed in range(5):
        rows = start_rows(x, 0, torch.Generator().manual_seed(seed))
        assert 10_000 <= len(rows) <= 10_002
        assert not rows.isnan().all(0).any()


def test_wide_rows_are_fewer_but_as_many_as_are_needed():
    """Else k-means of wide rows takes minutes, or many components have no rows."""
    x = torch.zeros(3000, 5000)
    assert len(start_rows(x, 0, None)) == 419
    assert len(start_rows(x, 800, None)) == 800
    assert len(start_rows(x, 9000, None)) == 3000
