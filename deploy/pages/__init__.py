"""Self-contained pages of plots: HTML and figures that pages of results share."""
