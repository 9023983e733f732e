"""What every layer may use: back-off, child processes, tasks that are kept going, and texts without secrets."""
