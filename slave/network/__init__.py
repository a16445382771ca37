"""Network side of a slave: sessions, links, transfers, endpoint."""
