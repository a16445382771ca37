"""The services' description, and the code generated from it; imported by `common.wire` alone."""
