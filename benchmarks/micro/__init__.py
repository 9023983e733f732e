"""Parts of the engine, each beside a baseline in one group of pytest-benchmark."""
