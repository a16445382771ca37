"""Python interface, which package `layerwise` re-exports; the command line calls the same functions."""
