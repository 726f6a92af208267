"""Amortized q, row by row: weights of rows, the two parts of their gap, the latents that they share."""
