"""The C parts of the compiled core `realizehit._fanout`: connections, queues, frames, sockets, timers."""
