"""`python -m decodedrift`."""

from decodedrift.cli import program

if __name__ == "__main__":
    program()
