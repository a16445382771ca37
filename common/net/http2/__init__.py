"""HTTP/2 (RFC 9113) over a thread's sockets or an event loop's, one stream at a time: as much as gRPC needs.

Payload is not copied on its way: DATA frames are written with `sendmsg` from wherever their parts lie, and
read with `recv_into` to wherever they belong. A second stream beside the one under way is refused (the
settings say so), so one thread or task serves a connection, and nothing but TCP holds back a fast sender.

TLS would wrap the socket before it comes here; ssl's sockets have no `sendmsg`: `pipe.Pipe.write` would have
to send part by part.
"""
