"""Adapting to a hospital without any label of it and without the source's images."""
