"""From a YAML file and a command line to a finished sweep: Ray Tune runs the trials, Optuna decides and remembers."""
