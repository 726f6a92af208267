"""Several modes: chains inside each, components that may be exchanged, the images of q."""
