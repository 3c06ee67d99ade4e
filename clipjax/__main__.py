"""The program `clipjax`, also `python -m clipjax`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C while it is imported ends without a traceback; later, see `signals`."""
    try:
        from clipjax import cli
    except KeyboardInterrupt:
        sys.stderr.write("clipjax: stopped before it began\n")
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
