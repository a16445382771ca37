"""Data plane: gRPC calls over `common.net.http2` that carry shards, activations and gradients.

Any gRPC stub can be the peer. A call has gRPC's form on the wire (PROTOCOL-HTTP2.md of gRPC): a path,
messages with a prefix of five bytes each, and a status in the trailers. Messages are not compressed, and the
calls of a connection follow each other. Pieces of shards move between the socket and the shard's buffer
without a copy.

Everything takes an `ssl.SSLContext`, or None for a connection in the clear.
"""
