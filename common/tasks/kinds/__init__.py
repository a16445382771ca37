"""Tasks: module NAME has the function `build` of the row NAME of `common.config.tasks.TASKS`."""
