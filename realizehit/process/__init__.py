"""The processes of a server: sockets, one node, several workers and their parent, the relay that they share."""
