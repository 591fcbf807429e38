"""Where the commands get their answers: a running service, or the files of one on this machine."""

#: Where a service listens unless its settings say otherwise.
THIS_MACHINE = "http://127.0.0.1:8646"
