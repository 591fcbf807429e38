"""Errors a person can act on: every message is a sentence that says what to do next."""


class KubehabitError(Exception):
    """Bad input or a missing part. The command line prints the message and exits with `exit_code`."""

    exit_code = 2


class BundleError(KubehabitError):
    """A model bundle is missing a file, was changed after it was written, or has an unknown format."""
