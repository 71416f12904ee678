"""What every computation returns: the Trajectory, its tables and files."""
