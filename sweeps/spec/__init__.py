"""A sweep's configuration: from a YAML file and `--set` to one frozen, validated `SweepSpec`.

Passes on plain values; knows neither Ray nor a run's folder.
"""
