"""Every knob, as YAML; this package only carries the files, so that they install with the code.

A command that is given no ``--config`` reads the file of its name from here.
"""
