"""What is known of a discrete latent: the probabilities of its values, one element at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Labels(NamedTuple):
    """Marginal distributions of the elements of a discrete latent.

    Attributes:
        values: What an element can be ``[k]``, in rising order.
        probabilities: Of each ``[*shape, k]``.
        draws: Of the other latents that they are averages over; infinite where they are exact.
    """

    values: np.ndarray
    probabilities: np.ndarray
    draws: float = float("inf")

    def mean(self) -> np.ndarray:
        """``[*shape]``"""
        return self.probabilities @ self.values

    def sd(self) -> np.ndarray:
        """``[*shape]``"""
        centred = self.values - self.mean()[..., None]
        return np.sqrt((self.probabilities * centred**2).sum(-1))

    def sd_spread(self) -> np.ndarray:
        """The standard error of an sd of n draws of z, times sqrt n: sqrt(m_4 - sd^4) / 2 sd; ``[*shape]``."""
        square = (self.values - self.mean()[..., None]) ** 2
        variance = (self.probabilities * square).sum(-1)
        fourth = (self.probabilities * square**2).sum(-1)
        spread = np.sqrt(np.maximum(fourth - variance**2, 0.0))
        return np.divide(spread, 2 * np.sqrt(variance), out=np.zeros_like(spread), where=variance > 0)

    def quantile(self, probability: np.ndarray) -> np.ndarray:
        """The least value at or below which there is as much probability: ``[m, *shape]`` for ``m`` of them."""
        cumulative = self.probabilities.cumsum(-1)
        enough = cumulative >= np.reshape(probability, (-1, *[1] * cumulative.ndim)) - 1e-12
        enough[..., -1] = True  # rounding
        return self.values[enough.argmax(-1)]

    def interval(self, mass: float) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the narrowest run of values that holds ``mass``, ``[*shape]`` each."""
        below = np.concatenate([np.zeros((*self.probabilities.shape[:-1], 1)), self.probabilities.cumsum(-1)], -1)
        low = high = np.zeros(self.probabilities.shape[:-1], int)
        width = np.full(low.shape, np.inf)
        for i in range(len(self.values)):
            held = below[..., 1:] - below[..., i : i + 1] >= mass - 1e-12
            end = held.argmax(-1)
            new = np.where(held.any(-1), self.values[end] - self.values[i], np.inf)
            low, high = np.where(new < width, i, low), np.where(new < width, end, high)
            width = np.minimum(width, new)
        return self.values[low], self.values[high]

    def log_prob(self, at: Any) -> np.ndarray:
        """Log probability of values ``[n, *shape]``, summed over the elements: ``[n]``; -inf of what it cannot be."""
        at = np.asarray(at)
        place = np.minimum(np.searchsorted(self.values, at), len(self.values) - 1)
        p = np.take_along_axis(np.broadcast_to(self.probabilities, (*at.shape, len(self.values))), place[..., None], -1)
        with np.errstate(divide="ignore"):
            found = np.where(self.values[place] == at, np.log(p[..., 0]), -np.inf)
        return found.reshape(len(at), -1).sum(1)
