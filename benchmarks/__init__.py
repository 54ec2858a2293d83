"""What this library costs: seconds and memory, against the analytic limit and against what it replaces."""
