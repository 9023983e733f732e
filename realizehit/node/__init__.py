"""What a node knows: who subscribes to what, gaps, events for clients, its figures and metrics. No sockets."""
