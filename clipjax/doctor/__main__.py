"""`python -m clipjax.doctor`: the versions installed here, as a stack of configs/tested_versions.toml."""

import sys

from clipjax.doctor.machine import this_machine
from clipjax.doctor.versions import installed_stack, stacks_text

if __name__ == "__main__":
    sys.stdout.write(stacks_text([installed_stack(this_machine())]))
