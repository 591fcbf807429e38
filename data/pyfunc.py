"""Where models registered before `detection` existed look for their loader."""

from detection.pyfunc import _load_pyfunc as _load_pyfunc
