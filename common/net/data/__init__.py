"""gRPC's calls over `common.net.http2`, for what is large: shards, activations and gradients.

Any gRPC stub can be the other end.

A call here is as gRPC has it on the wire (its PROTOCOL-HTTP2.md): a path, messages with five bytes before
each, and a status in the trailers. Nothing is compressed, and calls follow each other on a
connection. Frames of shards go to where they belong, and come from where they lie, without a copy.
"""
