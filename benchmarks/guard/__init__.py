"""Guards against regressions: exactly counted facts, and stable ratios."""
