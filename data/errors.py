"""Errors a person can act on: every message is a sentence that says what to do next."""


class KubehabitError(Exception):
    """Bad input or a missing part. The command line prints the message and exits with `exit_code`."""

    exit_code = 2
    #: `type` of the problem details (RFC 9457) that this error becomes.
    problem_type = "about:blank"


class NotFoundError(KubehabitError):
    """There is no such thing; the service answers 404."""


class UnknownPrincipalError(NotFoundError):
    """Nothing is known of the principal that was asked about."""

    problem_type = "urn:kubehabit:unknown-principal"


class ConflictError(KubehabitError):
    """The thing is in a state that does not allow what was asked for; the service answers 409."""


class BundleError(KubehabitError):
    """A model bundle is missing a file, was changed after it was written, or has an unknown format."""
