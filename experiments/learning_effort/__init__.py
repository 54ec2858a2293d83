"""Learning effort: the control that maximises value over a learning trajectory, experiment by experiment."""
