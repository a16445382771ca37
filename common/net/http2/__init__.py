"""HTTP/2 (RFC 9113) with one stream at a time, over sockets of threads or of an event loop.

Payload is not copied on the way: DATA frames leave by `sendmsg` from the memory that holds the parts, and
arrive by `recv_into` in the memory that wants them. A second stream beside an open one is refused (the
settings announce so): one thread or one task serves a connection, and TCP alone holds back a fast sender.

Pipes carry the bytes: `pipe.Pipe` for a thread, `loop_pipe.LoopPipe` for an event loop, and `tls` has both
over TLS.
"""
