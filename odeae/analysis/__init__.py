"""What reads curves and states: comparisons, plateaus, fixed points, power laws."""
