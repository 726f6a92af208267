"""The density itself: where it is not finite and why, whether it is a function, its own gradient, and proper."""
