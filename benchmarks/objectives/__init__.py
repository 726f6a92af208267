"""Objectives and gradients, measured."""
