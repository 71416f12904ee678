"""From the equations to a curve."""
