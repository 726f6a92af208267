"""Linear response: covariances of a mean-field fit, and the Monte Carlo error of its means."""
