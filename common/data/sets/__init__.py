"""Data sets: module NAME has the function `load` of the row NAME of `common.config.data.DATASETS`."""
