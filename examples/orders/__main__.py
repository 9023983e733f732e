"""``python -m examples.orders``."""

from examples.orders.orders import main

main()
