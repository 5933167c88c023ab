"""`inject`: one token of a text replaced, and where the text goes from there; drift without any numerical error."""
