"""What can be launched: one module or package per experiment, flags and configurations included."""
