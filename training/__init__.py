"""Model, calibration, evaluation, export and registry: everything offline. Never imported by serving."""
