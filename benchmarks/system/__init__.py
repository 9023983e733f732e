"""The rows of the table: real sockets, a real Valkey, a server process and a client process on a core each."""
