"""Networks, built-in and users': building, cutting, counting."""
