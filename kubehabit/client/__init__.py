"""Where the commands get their answers: a running service, or the files of one on this machine."""
