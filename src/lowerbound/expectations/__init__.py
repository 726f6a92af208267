"""E_q[.]: how an expectation is taken. In closed form, by an algebra of random values over the traced model; else by
Monte Carlo, on noise made to be exact where it can be."""

from lowerbound.expectations.noise import matched_normals, stratified_normals, student_scales

__all__ = ["matched_normals", "stratified_normals", "student_scales"]
