"""What a person can get wrong about flows and sinh-arcsinh, and what they are told."""

from __future__ import annotations

import re

import pytest

import lowerbound as lb
from lowerbound.errors import IncompatibleError
from lowerbound.families import Dense, Flow, Product, SinhArcsinh
from lowerbound.model import Model
from lowerbound.plan import choose


def model(d: int) -> Model:
    return Model.from_log_density(lb.LogDensity(lambda x: -(x**2).sum(), {"x": lb.Site(shape=(d,))}), {})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"coordinates": [1]}, "at least two indices"),
        ({"coordinates": [0.5, 1.5]}, "at least two indices"),
        ({"coordinates": [1, 1]}, "each index once, counted from zero"),
        ({"coordinates": [-1, 1]}, "each index once, counted from zero"),
        ({"layers": 0}, "Flow(layers=0): needed: a positive integer"),
        ({"width": 2.5}, "Flow(width=2.5): needed: a positive integer"),
        ({"width": True}, "Flow(width=True): needed: a positive integer"),
    ],
)
def test_settings_of_a_flow(options, said):
    with pytest.raises(IncompatibleError, match=re.escape(said)):
        Flow(**options)


def test_a_coordinate_that_there_is_not():
    with pytest.raises(IncompatibleError, match="index 7, but there are 3 dimensions"):
        choose(model(3), Flow((0, 7)))


def test_one_coordinate_is_too_few_for_a_flow():
    with pytest.raises(IncompatibleError, match=r"at least two coordinates.*Use family='sinh_arcsinh'"):
        choose(model(1), "flow")
    family, algorithm = choose(model(1), "sinh_arcsinh")
    assert (family.name, algorithm.name) == ("sinh_arcsinh", "from_gaussian")


def test_too_many_dimensions():
    with pytest.raises(IncompatibleError, match="up to 300 unconstrained dimensions; this model has 301"):
        choose(model(301), "sinh_arcsinh")
    with pytest.raises(IncompatibleError, match=r"up to 2000 unconstrained dimensions; this model\s+has 2001"):
        choose(model(2001), "flow")
    assert choose(model(1500), "flow")[1].name == "from_gaussian"


@pytest.mark.parametrize("algorithm", ["sample_average", "gradient_vi"])
@pytest.mark.parametrize("family", ["flow", "sinh_arcsinh"])
def test_an_algorithm_without_a_start_for_it(algorithm, family):
    with pytest.raises(IncompatibleError, match="use algorithm='from_gaussian', or leave algorithm out"):
        choose(model(3), family, algorithm)


def test_a_gaussian_is_not_for_from_gaussian():
    with pytest.raises(IncompatibleError, match="fits flows and sinh-arcsinh, not dense"):
        choose(model(3), "dense", "from_gaussian")


@pytest.mark.parametrize("part", [Flow(), SinhArcsinh()])
def test_no_part_of_a_product(part):
    with pytest.raises(IncompatibleError, match="fitted to all sites together"):
        Product({"a": part, ...: Dense()})
