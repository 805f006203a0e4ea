"""The benchmark `scale`: many restarts, many rows, many devices."""
