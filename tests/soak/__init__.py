"""Everything coming and going at random for a long time, with every publication accounted for."""
