"""The hospital: images come in, only approved aggregates go out."""
