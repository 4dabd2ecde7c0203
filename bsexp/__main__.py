"""`python -m bsexp` is the same program as `bsexp`."""

from bsexp.cli import main

if __name__ == "__main__":
    main()
