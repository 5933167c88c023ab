"""An OpenAI-compatible endpoint: what it can be asked, asked in the plan's order, and what came back as completions.

The `openai` client is imported when an endpoint is asked, and only there.
"""
