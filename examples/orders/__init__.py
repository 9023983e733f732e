"""A shop and a board of its open orders, which misses no order."""
