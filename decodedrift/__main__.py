"""`python -m decodedrift`."""

from decodedrift.cli import main

if __name__ == "__main__":
    main()
