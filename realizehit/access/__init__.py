"""Who may connect, subscribe and publish, and how much: policy alone, without a socket."""
