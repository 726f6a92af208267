"""A posterior in a file: read in another process, without the model, the same to the bit."""

import io
import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import lowerbound as lb
from lowerbound.errors import FileFormatError
from tests.posterior.models import ALL, fitted


@pytest.mark.parametrize("which", ALL)
def test_what_is_saved_is_what_is_loaded(which, tmp_path):
    p = fitted(which)
    p.save(tmp_path / "p.lb")
    r = lb.load(tmp_path / "p.lb")
    for a in (
        "sites",
        "status",
        "verdict",
        "elbo",
        "pareto_k",
        "seed",
        "versions",
        "timings",
        "counts",
        "evidence",
        "corrections",
        "trials",
        "source",
    ):
        # As text: what was not measured is nan, which is not equal to itself.
        assert repr(getattr(r, a)) == repr(getattr(p, a)), a
    assert (r.model_name, r.family_name, r.algorithm_name) == (p.model_name, p.family_name, p.algorithm_name)
    np.testing.assert_equal(tuple(r.log_evidence), tuple(p.log_evidence))
    np.testing.assert_array_equal(r.log_weights, p.log_weights)
    assert type(r.q) is type(p.q)
    for a, b in zip(p.trace, r.trace, strict=True):
        np.testing.assert_array_equal(a, b)
    draws, again = p.sample(100, seed=5), r.sample(100, seed=5)
    assert list(draws) == list(again)
    for k, v in draws.items():
        np.testing.assert_array_equal(v, again[k])
        assert v.dtype == again[k].dtype
    for x, y in ((p.mean(), r.mean()), (p.sd(), r.sd()), (p.quantile([0.1, 0.9]), r.quantile([0.1, 0.9]))):
        for k in x:
            np.testing.assert_array_equal(x[k], y[k])
    np.testing.assert_array_equal(p.summary().to_numpy(), r.summary().to_numpy())
    np.testing.assert_array_equal(p.log_prob(draws), r.log_prob(draws))
    assert repr(r) == repr(p)
    assert p.observed.keys() == r.observed.keys()
    assert [str(s.support) for s in r._sites.sites.values()] == [str(s.support) for s in p._sites.sites.values()]


def test_a_loaded_posterior_can_be_saved_again(tmp_path):
    fitted("product").save(tmp_path / "a.lb")
    lb.load(tmp_path / "a.lb").save(tmp_path / "b.lb")
    a, b = (lb.load(tmp_path / n).sample(20) for n in ("a.lb", "b.lb"))
    for k in a:
        np.testing.assert_array_equal(a[k], b[k])


def test_another_process_without_the_model(tmp_path):
    """It imports neither this test nor its models, and has the other precision."""
    expected = {}
    for which in ("line", "corrected", "product", "sinh_arcsinh", "flow", "point_mass"):
        p = fitted(which)
        p.save(tmp_path / f"{which}.lb")
        draws = p.sample(70, seed=2)
        expected |= {f"{which}.{k}": v for k, v in draws.items()}
        expected[f"{which}.log_prob"] = p.log_prob(draws)
    script = textwrap.dedent(
        """
        import pathlib, sys
        import jax, numpy as np
        import lowerbound as lb
        jax.config.update("jax_enable_x64", True)
        out = {}
        for path in pathlib.Path(sys.argv[1]).glob("*.lb"):
            p = lb.load(path)
            draws = p.sample(70, seed=2)
            out |= {f"{path.stem}.{k}": v for k, v in draws.items()}
            out[f"{path.stem}.log_prob"] = p.log_prob(draws)
            p.summary()
        assert not any(m.startswith("tests") for m in sys.modules)
        np.savez(sys.argv[2], **out)
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(tmp_path / "out.npz")]
    env = os.environ | {"PYTHONPATH": str(Path(lb.__file__).parents[1])}
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert run.returncode == 0, run.stderr
    with np.load(tmp_path / "out.npz") as got:
        assert set(got.files) == set(expected)
        for k, v in expected.items():
            np.testing.assert_array_equal(got[k], v, err_msg=k)


def test_no_pickle_in_the_file(tmp_path):
    fitted("line").save(tmp_path / "p.lb")
    with zipfile.ZipFile(tmp_path / "p.lb") as z:
        assert set(z.namelist()) == {"meta.json", "arrays.npz", "constrain", "unconstrain"}
        json.loads(z.read("meta.json"))
        with np.load(io.BytesIO(z.read("arrays.npz")), allow_pickle=False) as arrays:
            assert all(arrays[k].dtype.kind in "fiub" for k in arrays.files)


def big(n):
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("n", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    return lb.fit(model, {"y": np.random.default_rng(0).normal(1, 1, n)})


def test_the_rows_of_the_data_are_not_in_the_programs(tmp_path):
    n = 5_000  # 40 kB
    p = big(n)
    p.save(tmp_path / "p.lb")
    with zipfile.ZipFile(tmp_path / "p.lb") as z:
        for program in ("constrain", "unconstrain"):
            assert z.getinfo(program).file_size < 20_000
    r = lb.load(tmp_path / "p.lb")
    np.testing.assert_array_equal(r.sample(5)["mu"], p.sample(5)["mu"])
    # They are small enough to keep
    np.testing.assert_array_equal(r.observed["y"], p.observed["y"])


def test_large_data_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("lowerbound.posterior.storage.MAX_DATA", 1000)
    p = fitted("line")
    p.observed["large"] = np.zeros(2000)  # pyright: ignore
    try:
        p.save(tmp_path / "p.lb")
    finally:
        del p.observed["large"]  # pyright: ignore
    assert set(lb.load(tmp_path / "p.lb").observed) == {"x", "y"}


def test_the_file_takes_the_place_of_an_older_one_whole(tmp_path, monkeypatch):
    target = tmp_path / "p.lb"
    fitted("line").save(target)
    before = target.read_bytes()
    monkeypatch.setattr("lowerbound.model.sites.SiteMap.export", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fitted("line").save(target)
    assert target.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["p.lb"]


def test_a_path_may_be_text_and_its_directory_new(tmp_path):
    fitted("line").save(str(tmp_path / "new" / "p.lb"))
    assert lb.load(str(tmp_path / "new" / "p.lb")).sites == ("b",)


# -- files that are not ------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    fitted("line").save(tmp_path / "p.lb")
    return tmp_path / "p.lb"


def rewrite(path, **changes):
    """The file with some members changed (a function of bytes) or left out (None)."""
    with zipfile.ZipFile(path) as z:
        members = {n: z.read(n) for n in z.namelist()}
    with zipfile.ZipFile(path, "w") as z:
        for n, content in members.items():
            change = changes.get(n.split(".")[0], lambda c: c)
            if change is not None:
                z.writestr(n, change(content))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        lb.load(tmp_path / "nothing.lb")


def test_a_directory(tmp_path):
    with pytest.raises(FileFormatError, match="is a directory; needed: a file"):
        lb.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 half a zip"])
def test_not_a_posterior(tmp_path, content):
    (tmp_path / "x.lb").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"x\.lb is not a posterior saved by lowerbound"):
        lb.load(tmp_path / "x.lb")


def test_another_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.lb", "w") as z:
        z.writestr("hello.txt", "hello")
    with pytest.raises(FileFormatError, match="is not a posterior saved by lowerbound"):
        lb.load(tmp_path / "x.lb")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileFormatError, match="is not a posterior saved by lowerbound, or is damaged"):
        lb.load(saved)


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7])
def test_damaged(saved, place):
    content = bytearray(saved.read_bytes())
    i = int(place * len(content))
    content[i : i + 64] = bytes(b ^ 0xFF for b in content[i : i + 64])
    saved.write_bytes(bytes(content))
    with pytest.raises(FileFormatError, match="is damaged"):
        lb.load(saved)


@pytest.mark.parametrize("member", ["meta", "arrays", "constrain"])
def test_a_member_is_missing(saved, member):
    rewrite(saved, **{member: None})
    with pytest.raises(FileFormatError, match="is damaged"):
        lb.load(saved)


def test_a_newer_format(saved):
    """Said before anything else is read, for anything else may have changed."""

    def newer(content):
        return json.dumps({"format": 99}).encode()

    rewrite(saved, meta=newer, arrays=None)
    with pytest.raises(FileFormatError, match=r"has format 99, this version of lowerbound reads up to 4\. Upgrade"):
        lb.load(saved)


def test_meta_without_its_entries(saved):
    rewrite(saved, meta=lambda c: b'{"format": 1}')
    with pytest.raises(FileFormatError, match="is damaged"):
        lb.load(saved)
    rewrite(saved, meta=lambda c: b"[]")
    with pytest.raises(FileFormatError, match="is damaged"):
        lb.load(saved)


def test_a_block_of_another_kind(saved):
    rewrite(saved, meta=lambda c: json.dumps(json.loads(c) | {"q": "cloud"}).encode())
    with pytest.raises(FileFormatError, match="a block of unknown kind 'cloud'"):
        lb.load(saved)


def test_a_program_that_cannot_be_read(saved):
    rewrite(saved, constrain=lambda c: b"nonsense" * 100)
    with pytest.raises(FileFormatError, match=r"transforms .* cannot be read"):
        lb.load(saved).sample(3)
