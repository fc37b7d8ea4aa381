"""From scores to training labels: which negatives, which numbers, which format. Pure."""
