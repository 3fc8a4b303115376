"""The configurations of the commands: Hydra's groups, one folder each."""
