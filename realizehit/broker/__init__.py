"""Brokers: the interface in `base`, an implementation in each other module, `open` picks one by its URL."""
