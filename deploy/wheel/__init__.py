"""Build of the wheel: every package of the repository as a part of `layerwise`."""
