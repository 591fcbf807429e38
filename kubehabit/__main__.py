"""`python -m kubehabit`."""

from kubehabit.main import main

main()
