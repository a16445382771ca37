"""Input synthesizers I: module NAME has the function `build` of the row NAME of `INPUTS`."""
