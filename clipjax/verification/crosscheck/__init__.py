"""The same images and prompts through both frameworks, end to end: where does the first number differ?

    done = crosscheck("b32", Request("imagenet_val", "imagenet/val", limit=512))
    done.first_difference                   # None, or the name of a stage
    done.write("crosscheck")                # record.json and sheet.png

`clipjax.verification.verify` gives both sides the same random inputs; here each side works on its own earlier
stages, from decoding to counting. The reference runs in a subprocess (`converters.golden.crosscheck`) with
its library's own public code.

    ours.py        our side of a resolved run (`clipjax.evaluation.subject`), by the code of `clipjax eval`
    reference.py   the same run as a job for the reference, and the resulting arrays
    side.py        what both sides have
    stages.py      the comparison of each stage
    record.py      the outcome, as a JSON record with a digest
    sheet.py       the contact sheet of the worst images
"""

from clipjax.verification.crosscheck.record import Crosscheck, read_record
from clipjax.verification.crosscheck.run import crosscheck

__all__ = ["Crosscheck", "crosscheck", "read_record"]
