"""`compare`: the same prompts through a reference and its candidates, and where and how far they part."""
