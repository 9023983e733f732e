"""Which shapes of wildcard subscriptions are in use: nodes register them at the broker, publishers follow them."""
