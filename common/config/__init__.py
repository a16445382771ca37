"""Configuration: sections, keys, options, TOML in and out."""
