"""Private: which stages of a pipeline are computed together or in patches, and the functions that do so."""
