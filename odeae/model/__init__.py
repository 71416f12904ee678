"""What is trained, on what, and how: spectrum, state, network, rule, problem."""
