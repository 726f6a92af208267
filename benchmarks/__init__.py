"""What ``lowerbound`` costs and how right it is, beside NumPyro. See ``README.md`` here; not part of the package."""
