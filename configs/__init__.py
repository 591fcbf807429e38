"""Every knob, as YAML, packaged with the code. A command without `--config` reads the file of its name."""
