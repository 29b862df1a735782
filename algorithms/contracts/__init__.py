"""The nouns that both parties and every room share: standard library, numpy and pydantic only."""
