"""Mutated wrapped records, hundreds in one body, file or archive: `python -m benchmarks.fuzz_wrapped --report FILE`.

What must hold is said in `benchmarks.fuzzing.bodies`. A body that breaks it is cut down to the smallest records that still do;
they are written beside the report, from which a later call goes on.
"""

from __future__ import annotations

from benchmarks.fuzzing.bodies import Bodies
from benchmarks.fuzzing.campaign import command

if __name__ == "__main__":
    command(__doc__, "inputs", "mutated records", Bodies().play)
