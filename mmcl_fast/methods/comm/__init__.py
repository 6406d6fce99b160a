"""COMM, the package's own method."""
