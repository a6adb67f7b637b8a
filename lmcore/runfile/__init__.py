"""From a YAML file to a validated `RunSpec`: strict YAML, dotted paths, and errors that name file and line."""
