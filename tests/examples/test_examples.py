"""Every bundled example loads, says where it comes from, and gives the same data every time."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from lowerbound import examples
from lowerbound.errors import UnknownNameError
from lowerbound.model import Model

NAMES = examples.names()


def test_the_six_are_there():
    assert NAMES == [
        "eight-schools",
        "gaussian-mixture",
        "linear-regression",
        "logistic-regression",
        "poisson-counts",
        "robust-regression",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_example_is_complete(name):
    example = examples.load(name)
    assert example.name == name
    assert example.title == examples.titles()[name]
    assert "\n" not in example.title
    module = importlib.import_module(example.model.__module__)
    doc = (module.__doc__ or "").lower()
    assert "public domain" in doc or "free to use" in doc
    again = examples.load(name).data
    assert sorted(again) == sorted(example.data)
    for k, v in example.data.items():
        np.testing.assert_array_equal(v, again[k])
        assert v.nbytes < 50_000


@pytest.mark.parametrize("name", NAMES)
def test_example_is_a_model(name):
    example = examples.load(name)
    model = Model.from_numpyro(example.model, example.data)
    assert 0 < model.dimension < 50


def test_underscores_are_hyphens():
    assert examples.load("eight_schools").name == "eight-schools"


def test_unknown_example_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown example 'eihgt-schools'\. Did you mean 'eight-schools'\?"):
        examples.load("eihgt-schools")
