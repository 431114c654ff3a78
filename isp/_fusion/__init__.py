"""Private: decides which stages of a pipeline are computed together or in patches, and computes them."""
