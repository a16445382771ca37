"""Command `layerwise doctor`: checks of this machine and a set-up, each finding with a fix."""
