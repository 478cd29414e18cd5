"""Child processes: how they are started, and the environment that they start with."""
