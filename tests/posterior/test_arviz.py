"""``to_arviz``: with the ArviZ that is installed, and by the signatures of the other."""

import sys
import types

import numpy as np
import pytest

from tests.posterior.models import X, Y, fitted


def test_with_the_arviz_installed():
    import arviz

    p = fitted("line")
    out = p.to_arviz(300, seed=4)
    posterior = out["posterior"]
    draws = p.sample(300, seed=4)
    assert (
        posterior["b"].shape == (1, 300, 2)
        and posterior["mean"].shape == (1, 300, 12)
        and posterior["count"].shape == (1, 300)
    )
    np.testing.assert_array_equal(posterior["b"].values[0], draws["b"])
    np.testing.assert_array_equal(out["observed_data"]["y"].values, Y)
    np.testing.assert_array_equal(out["observed_data"]["x"].values, X)
    attributes = posterior.attrs
    assert attributes["inference_library"] == "lowerbound"
    assert attributes["verdict"] == "TRUSTED" and attributes["elbo"] == float(p.elbo)
    assert set(arviz.summary(out, var_names=["b"]).index) == {"b[0]", "b[1]"}


@pytest.mark.parametrize("which", ["corrected", "point_mass", "density", "product"])
def test_every_kind_of_posterior(which):
    p = fitted(which)
    out = p.to_arviz(50)
    assert set(out["posterior"].data_vars) == set(p.mean())


def test_writes_to_netcdf(tmp_path):
    pytest.importorskip("netCDF4" if _has("netCDF4") else "h5netcdf")
    fitted("point_mass").to_arviz(20).to_netcdf(str(tmp_path / "p.nc"))
    assert (tmp_path / "p.nc").stat().st_size > 0


def _has(name):
    import importlib.util

    return importlib.util.find_spec(name) is not None


class _Group(dict):
    def __init__(self, variables):
        super().__init__(variables)
        self.attrs = {}


def test_the_call_of_arviz_1(monkeypatch):
    """from_dict takes one mapping of groups and returns a DataTree, whose groups are items."""
    calls = []

    def from_dict(data, *, name=None, sample_dims=None):
        calls.append(data)
        return {k: _Group(v) for k, v in data.items()}

    fake = types.ModuleType("arviz")
    fake.__version__ = "1.3.0"
    fake.from_dict = from_dict
    monkeypatch.setitem(sys.modules, "arviz", fake)
    out = fitted("line").to_arviz(10)
    assert set(calls[0]) == {"posterior", "observed_data"}
    assert calls[0]["posterior"]["b"].shape == (1, 10, 2)
    assert out["posterior"].attrs["verdict"] == "TRUSTED"
    assert set(fitted("density").to_arviz(10)) == {"posterior"}


def test_without_arviz(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"pip install 'lowerbound\[arviz\]'"):
        fitted("line").to_arviz()
