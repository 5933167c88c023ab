"""The sections that the page of every experiment has: what it says, what failed, what was run."""
