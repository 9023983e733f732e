"""What every layer may use: child processes, tasks that are kept going, and texts without secrets."""
