"""``python -m examples.ticker``."""

from examples.ticker.ticker import main

main()
