"""The ground floor: configuration, networks, data, synthesizers, wire. No process of its own."""
