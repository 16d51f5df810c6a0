"""JSON Web Tokens: verifying them, the keys they are verified with, and issuing them."""
