"""Many problems at once: grids, stores, workers."""
