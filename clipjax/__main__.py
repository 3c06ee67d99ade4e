"""`python -m clipjax`: the same as `clipjax`."""

from clipjax.cli import main

if __name__ == "__main__":
    main()
