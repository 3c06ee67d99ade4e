"""The same images and prompts through both frameworks, end to end: where does the first number differ?

    done = crosscheck("vit_b_32-openai", Request("imagenet_val", "imagenet/val", limit=512))
    done.first_difference                   # None, or the name of a stage
    done.write("crosscheck")                # record.json and sheet.png

Each side works on its own earlier stages, from decoding to counting; in `verify` both get the same inputs.
"""

from clipjax.verification.crosscheck.both_sides import crosscheck
from clipjax.verification.crosscheck.record import Crosscheck, read_record

__all__ = ["Crosscheck", "crosscheck", "read_record"]
