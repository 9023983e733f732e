"""History: the rules that say which patterns have a log, and the logs at the broker."""
