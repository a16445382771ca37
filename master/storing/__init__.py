"""Process `layerwise store`: keeps shards of a run, and makes the master's orders true."""
