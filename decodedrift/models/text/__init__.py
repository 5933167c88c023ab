"""From text to token ids and back: tokenizers, stop tokens, warnings about special tokens, windows of long texts."""
