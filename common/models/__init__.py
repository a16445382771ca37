"""Networks: built-in ones and users', built, cut and counted."""
