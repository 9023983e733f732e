"""What must never get worse: facts counted exactly, and those ratios that are stable."""
