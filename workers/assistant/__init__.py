"""The assistant of `factstream chat` and of the page: it learns from what is said, and answers."""
