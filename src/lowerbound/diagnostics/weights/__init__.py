"""Importance weights of draws of q: what they come from, what they say of q, of the evidence and of tails."""
