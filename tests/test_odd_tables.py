"""Tables of odd shapes and contents, made up by hypothesis, through start, fit and grading."""

import math

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyro_lvm import fit, grade
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_table_is_fitted_and_graded(data: st.DataObject) -> None:
    # Wrong: constant columns, repeated rows, huge offsets or more features than rows would give NaN or a traceback.
    num_rows, data_dim = data.draw(st.integers(2, 12)), data.draw(st.integers(2, 9))
    scale, offset = 10.0 ** data.draw(st.integers(-6, 6)), data.draw(st.sampled_from([0.0, 1.0, -1e3]))
    values = data.draw(hnp.arrays("float32", (num_rows, data_dim), elements=st.integers(-3, 3).map(float)))
    x = torch.from_numpy(values) * scale + offset * scale
    latent_dim = data.draw(st.integers(1, data_dim - 1))
    result = fit(PPCA(data_dim, latent_dim), LinearGaussian(data_dim, latent_dim), x, steps=3, progress=False)
    for value in result.pair.state_dict().values():
        assert torch.isfinite(value.float()).all()
    graded = grade(result.pair, x)
    assert math.isfinite(graded.elbo)
    # Rows that lie in d dimensions or fewer have no finite maximum of the likelihood, and then no gap.
    assert graded.gap is None or graded.gap > -1e-6
