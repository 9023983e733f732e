"""Presence at the broker: who is subscribed to a pattern, on which nodes, and the messages of joins and leaves."""
