"""A slave: trains one layer on one device."""
