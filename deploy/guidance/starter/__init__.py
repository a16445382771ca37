"""Files that `layerwise init` writes: run.toml, my_network.py, my_data.py."""
