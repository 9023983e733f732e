"""Parts of the engine, each against a baseline in one group of pytest-benchmark."""
