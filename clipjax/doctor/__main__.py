"""`python -m clipjax.doctor > configs/tested_versions.toml`: the versions installed here."""

import sys

from clipjax.doctor.machine import this_machine
from clipjax.doctor.versions import installed_set

if __name__ == "__main__":
    sys.stdout.write(installed_set(this_machine()))
