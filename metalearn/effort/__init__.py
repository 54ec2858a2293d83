"""Wing 3: learning effort. The control signal that maximises discounted performance over a learning trajectory."""
