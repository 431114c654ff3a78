"""Downloads that continue where they were interrupted."""
