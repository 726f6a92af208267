"""Ranks over simulated data sets, and whether they are uniform."""
