"""The study lead: hands out packages and collects aggregates; cannot import what reads images."""
