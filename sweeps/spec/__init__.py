"""A sweep's configuration: from a YAML file and `--set` to one frozen, validated `SweepSpec`.

Nothing here knows Ray or a run's folder.
"""
